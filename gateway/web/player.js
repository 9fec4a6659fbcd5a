// Plays fragmented MP4 through Media Source Extensions: one SourceBuffer a track, fragments placed by their own time.
// It knows the media clock and nothing of sessions or the page.

const KEEP_BEHIND_S = 15;  // played media kept in the buffers
const FADE_S = 0.18;
const MAX_LEAD_S = 12;     // further behind than this, jump to the live edge
const LIVE_LEAD_S = 1.5;   // and land this far before it
const START_LEAD_S = 0.25;

const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
const mime = (track) => `${track.track === 1 ? "video" : "audio"}/mp4; codecs="${track.codec}"`;

export class Player {
  #video;
  #source = null;
  #lanes = new Map();      // track number -> {buffer, jobs}
  #generation = 0;
  #fade = null;
  #silentUntil = null;     // after an interrupt, sound stays off until this media time
  onTrouble = () => {};

  constructor(video) {
    this.#video = video;
    video.addEventListener("error", () => this.onTrouble(video.error?.message || "the browser could not decode the media"));
    setInterval(() => this.#tend(), 200);
  }

  get playhead() { return this.#video.currentTime; }

  /** Seconds buffered beyond the playhead, in both tracks. */
  get lead() {
    const ranges = this.#video.buffered;
    for (let at = 0; at < ranges.length; at += 1) {
      if (ranges.start(at) <= this.playhead + 0.1 && this.playhead < ranges.end(at)) return ranges.end(at) - this.playhead;
    }
    return 0;
  }

  /** Begin with these tracks (TrackInit in protobuf JSON), dropping whatever was there. Throws when a codec is unknown. */
  async start(tracks) {
    for (const track of tracks) {
      if (!MediaSource.isTypeSupported(mime(track))) throw new Error(`This browser cannot play ${mime(track)}.`);
    }
    this.stop();
    const source = new MediaSource();
    this.#source = source;
    this.#generation = 0;
    this.#video.src = URL.createObjectURL(source);
    await new Promise((resolve) => source.addEventListener("sourceopen", resolve, { once: true }));
    if (this.#source !== source) return;
    for (const track of tracks) {
      const buffer = source.addSourceBuffer(mime(track));
      const lane = { buffer, jobs: [] };
      buffer.addEventListener("updateend", () => this.#work(lane));
      this.#lanes.set(track.track, lane);
      this.#push(lane, () => buffer.appendBuffer(bytes(track.initData)));
    }
    this.#video.play().catch(() => {});
  }

  stop() {
    this.#lanes.clear();
    this.#source = null;
    this.#unfade();
    if (this.#video.src) {
      URL.revokeObjectURL(this.#video.src);
      this.#video.removeAttribute("src");
      this.#video.load();
    }
  }

  /** Add one fragment; one from before the newest interrupt is dropped. */
  append(media) {
    const generation = Number(media.generation);
    const lane = this.#lanes.get(media.track);
    if (!lane || generation < this.#generation) return;
    this.#generation = generation;
    this.#push(lane, () => lane.buffer.appendBuffer(media.data));
  }

  /** Forget media from `from` seconds on: they are no longer part of the performance. */
  retire(from, generation) {
    this.#generation = Math.max(this.#generation, generation);
    for (const lane of this.#lanes.values()) {
      this.#push(lane, () => { if (this.#source.duration > from) lane.buffer.remove(from, Infinity); });
    }
    if (this.#silentUntil !== null) this.#silentUntil = from;
    // What replaces them begins at `from`: nothing of it may be missed.
    if (this.playhead > from) this.#video.currentTime = from;
  }

  /** Fade the sound now; it comes back at `until` on the media clock. The picture plays on. */
  hush(until) {
    this.#silentUntil = until;
    const began = performance.now();
    clearInterval(this.#fade);
    this.#fade = setInterval(() => {
      const left = Math.max(0, 1 - (performance.now() - began) / (FADE_S * 1000));
      this.#video.volume = left * left;
      if (left === 0) clearInterval(this.#fade);
    }, 15);
  }

  #unfade() {
    clearInterval(this.#fade);
    this.#silentUntil = null;
    this.#video.volume = 1;
  }

  #push(lane, job) {
    lane.jobs.push(job);
    this.#work(lane);
  }

  #work(lane) {
    while (lane.jobs.length && !lane.buffer.updating && this.#source?.readyState === "open") {
      const job = lane.jobs.shift();
      try {
        job();
      } catch (fault) {
        if (fault.name === "QuotaExceededError") {
          lane.jobs.unshift(job);
          lane.buffer.remove(0, Math.max(0.1, this.playhead - 2));
        } else if (fault.name !== "InvalidStateError") {
          this.onTrouble(fault.message);
        }
      }
    }
  }

  #tend() {
    if (!this.#source) return;
    const video = this.#video;
    if (this.#silentUntil !== null && video.currentTime >= this.#silentUntil && video.readyState > 2) this.#unfade();
    for (const lane of this.#lanes.values()) {
      const { buffered, updating } = lane.buffer;
      if (!updating && buffered.length && buffered.start(0) < video.currentTime - 2 * KEEP_BEHIND_S) {
        this.#push(lane, () => lane.buffer.remove(0, video.currentTime - KEEP_BEHIND_S));
      }
    }
    if (this.lead > MAX_LEAD_S) video.currentTime += this.lead - LIVE_LEAD_S;
    else if (video.readyState < 3) this.#leapGap();
  }

  // A playhead that stands in a hole would stand there for ever: go on where media begins again.
  #leapGap() {
    const ranges = this.#video.buffered;
    for (let at = 0; at < ranges.length; at += 1) {
      const start = ranges.start(at);
      if (start > this.playhead && ranges.end(at) - start > START_LEAD_S) {
        this.#video.currentTime = start + 0.001;
        return;
      }
    }
  }
}
