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
  /** "busy": the service has no room now, or a limit is used up for a moment; it is asked again. */
  state: "hashing" | "uploading" | "busy" | "queued" | "running";
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
  /** The limit that was exceeded, if one was: input_pixels, upload_bytes, ... */
  readonly exceeded: { name: string; limit: number; actual: number } | null;
  /** Seconds after which the service may be asked again, if it says so. */
  readonly retryAfter: number | null;
}

export function enhance(file: Blob, options?: EnhanceOptions): Promise<EnhanceResult>;

/** A result that is ready, or a job to `follow`. */
export type Submission =
  | { url: string | null; blob?: Blob; cacheHit: boolean }
  | { statusUrl: string };

/** The first half of `enhance`: the job goes on when the page is left, and can be followed later. */
export function submit(file: Blob, options?: EnhanceOptions): Promise<Submission>;

/** The second half: resolves to the result's URL. Aborting leaves the job running. */
export function follow(
  statusUrl: string,
  options?: Pick<EnhanceOptions, "signal" | "onProgress" | "apiKey">,
): Promise<string>;

/** Cancel a job. */
export function withdraw(statusUrl: string, options?: Pick<EnhanceOptions, "apiKey">): void;

/** The upload as a PNG, at most `maxSide` pixels long: for formats that browsers cannot show. */
export function preview(
  file: Blob,
  options?: Pick<EnhanceOptions, "signal" | "baseUrl" | "apiKey"> & { maxSide?: number },
): Promise<Blob>;
