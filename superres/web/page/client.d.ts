/** Options for the result; see the table in docs/http.md. */
export interface EnhanceOptions {
  format?: "png" | "webp" | "jpeg" | "avif";
  /** 1 to 100, for lossy formats. */
  quality?: number;
  /** For webp only. */
  lossless?: boolean;
  /** 1 with mode "restore" only: the image at its own size. */
  scale?: 1 | 2 | 3 | 4;
  /** Pixels, instead of scale; one alone keeps the aspect ratio. */
  width?: number;
  height?: number;
  /** "restore" removes noise, blur and the marks of compression. */
  mode?: "faithful" | "restore";
  /** Aborting cancels the job. */
  signal?: AbortSignal;
  onProgress?: (progress: EnhanceProgress) => void;
  /** If the service requires one. Never ship somebody else's key in a page. */
  apiKey?: string;
  /** A service other than the one that this module was loaded from. */
  baseUrl?: string | URL;
}

export interface EnhanceProgress {
  state: "hashing" | "uploading" | "queued" | "running";
  /** 0 to 1. */
  progress: number;
  /** Jobs ahead of this one. */
  position?: number;
  etaSeconds?: number;
}

export interface EnhanceResult {
  blob: Blob;
  /** The result's permanent URL; null if it could not be stored. With ?download=1, browsers save it. */
  url: string | null;
  /** Whether the result already existed. */
  cacheHit: boolean;
}

/** A response that is not an image. */
export class EnhanceError extends Error {
  /** Short and stable: too_large, undecodable_image, busy, ... */
  readonly code: string;
  readonly status: number;
  readonly requestId: string | null;
}

export function enhance(file: Blob, options?: EnhanceOptions): Promise<EnhanceResult>;
