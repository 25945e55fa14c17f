/** What a result shall be; see the table of options in docs/http.md. */
export interface EnhanceOptions {
  format?: "png" | "webp" | "jpeg" | "avif";
  /** 1 to 100, for lossy formats. */
  quality?: number;
  /** For webp. */
  lossless?: boolean;
  scale?: 2 | 3 | 4;
  /** Pixels, instead of scale; one alone keeps the proportions. */
  width?: number;
  height?: number;
  /** Aborting withdraws the job. */
  signal?: AbortSignal;
  onProgress?: (progress: EnhanceProgress) => void;
  /** Where the service asks for one; pages should not have other people's. */
  apiKey?: string;
  /** Another service than the one that this module came from. */
  baseUrl?: string | URL;
}

export interface EnhanceProgress {
  state: "hashing" | "uploading" | "queued" | "running";
  /** 0 to 1. */
  progress: number;
  /** Jobs before this one. */
  position?: number;
  etaSeconds?: number;
}

export interface EnhanceResult {
  blob: Blob;
  /** Where the result stays; null where it could not be stored. */
  url: string | null;
  /** It was there before. */
  cacheHit: boolean;
}

/** An answer that is no picture. */
export class EnhanceError extends Error {
  /** Short and stable: too_large, undecodable_image, busy, ... */
  readonly code: string;
  readonly status: number;
  readonly requestId: string | null;
}

export function enhance(file: Blob, options?: EnhanceOptions): Promise<EnhanceResult>;
