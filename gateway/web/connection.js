// One session over one WebSocket: JSON both ways, media as binary. Attaches again by itself when the line breaks.
// It knows the protocol of /ws and nothing of the page.

const FIRST_RETRY_MS = 200;
const MOST_RETRY_MS = 5000;
const TRIES = 15;
const CREDIT = 48;

/** Seconds of a protobuf JSON duration such as "1.375s". */
export const seconds = (duration) => (duration ? Number.parseFloat(duration) : 0);
const duration = (value) => `${Math.max(0, value).toFixed(3)}s`;

export class Connection extends EventTarget {
  #socket = null;
  #session = null;
  #key = "";           // API key, where the gateway asks for one
  #token = "";
  #resumeToken = "";
  #clientSeq = 0;
  #unsent = [];        // inputs the server has not yet said are durable
  #nextOffset = null;  // first media offset not yet here
  #nextProgress = 0;   // first chunk whose captions are not yet here
  #generation = 0;     // of the newest cut that was told
  #told = {};          // id of the newest response that began, and of the newest that ended
  #received = 0;       // media since the last acknowledge
  #serverSeq = 0;
  #attempt = 0;
  #isAttached = false;
  #isOver = false;

  /** Admit a session of `config` (a SessionConfig in protobuf JSON) and attach to it. */
  open(config, key) {
    this.#key = key;
    this.#connect(() => this.#send({ key, create: { config, queueTimeout: "5s" } }));
  }

  say(text) { this.#input({ input: { say: text } }); }

  prompt(text) { this.#input({ input: { prompt: text } }); }

  interrupt(playhead) { this.#input({ interrupt: { playhead: duration(playhead) } }); }

  acknowledge(playhead) {
    if (!this.#isAttached) return;
    const acknowledge = { serverSeq: this.#serverSeq, mediaOffset: this.#nextOffset ?? 0, playhead: duration(playhead), credit: this.#received };
    this.#received = 0;
    this.#send({ stream: { acknowledge } });
  }

  /** End the session and let its slot go. */
  close() {
    this.#isOver = true;
    if (this.#session) this.#send({ key: this.#key, close: { name: this.#session, immediate: true } });
    this.#socket?.close(1000);
  }

  #input(message) {
    const numbered = { clientSeq: ++this.#clientSeq, ...message };
    this.#unsent.push(numbered);
    if (this.#isAttached) this.#send({ stream: numbered });
  }

  #connect(onOpen) {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/ws`);
    socket.binaryType = "arraybuffer";
    socket.onopen = onOpen;
    socket.onmessage = (event) => {
      if (socket !== this.#socket) return;
      if (typeof event.data === "string") this.#control(JSON.parse(event.data));
      else this.#media(event.data);
    };
    socket.onclose = (event) => { if (socket === this.#socket) this.#lost(event); };
    this.#socket = socket;
  }

  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #attach() {
    const attach = { session: this.#session, resumeToken: this.#resumeToken, lastServerSeq: this.#serverSeq, initialCredit: CREDIT };
    if (this.#nextOffset !== null) attach.mediaOffset = this.#nextOffset;
    this.#send({ token: this.#token, stream: { attach } });
  }

  #control(message) {
    if (message.created) {
      this.#session = message.created.session.name;
      this.#token = message.created.attachToken;
      this.#attach();
    } else if (message.error) {
      if (!message.error.retryAfterSeconds || !this.#session) this.#isOver = true;
      this.#emit("problem", { ...message.error, isFinal: this.#isOver });
      if (!this.#isOver) this.#socket.close();  // the stream has ended: attach again on a new line
    } else if (message.stream) {
      this.#streamed(message.stream);
    }
  }

  #streamed(message) {
    this.#serverSeq = Number(message.serverSeq);
    if (message.attached) {
      this.#isAttached = true;
      this.#attempt = 0;
      this.#received = 0;
      const taken = Number(message.attached.lastClientSeq);
      this.#unsent = this.#unsent.filter((input) => input.clientSeq > taken);
      this.#unsent.forEach((input) => this.#send({ stream: input }));
      this.#nextOffset ??= Number(message.attached.mediaOffset);
    } else if (message.resumeUpdate) {
      this.#resumeToken = message.resumeUpdate.resumeToken;
      const durable = Number(message.resumeUpdate.durableClientSeq);
      this.#unsent = this.#unsent.filter((input) => input.clientSeq > durable);
    } else if (message.stateChanged && /CLOSED|FAILED/.test(message.stateChanged.state)) {
      this.#isOver = true;
    } else if (message.goAway && /DRAINING|MAX_AGE/.test(message.goAway.reason)) {
      this.#resumeToken = message.goAway.resumeToken || this.#resumeToken;
      this.#leave();
      return;
    }
    if (!this.#isNew(message)) return;
    for (const kind of ["attached", "progress", "responseStarted", "responseEnded", "stateChanged", "error", "notice", "retired"]) {
      if (message[kind]) this.#emit(kind, message[kind]);
    }
  }

  // A stream that is opened again tells the last captions, cut and response of the one before a second time.
  #isNew(message) {
    if (message.progress) {
      const chunk = Number(message.progress.chunkIndex);
      if (chunk < this.#nextProgress) return false;
      this.#nextProgress = chunk + 1;
    }
    if (message.retired) {
      if (Number(message.retired.generation) <= this.#generation) return false;
      this.#generation = Number(message.retired.generation);
    }
    for (const kind of ["responseStarted", "responseEnded"]) {
      if (!message[kind]) continue;
      if (this.#told[kind] === message[kind].responseId) return false;
      this.#told[kind] = message[kind].responseId;
    }
    return true;
  }

  // The gateway goes away: attach at another one now, over a new line, and let the old one go.
  #leave() {
    const old = this.#socket;
    this.#isAttached = false;
    this.#connect(() => this.#attach());
    old.close(1000);
  }

  // A binary message is: length of the head (32 bits, big-endian), the head in JSON, the fragment.
  #media(buffer) {
    const length = new DataView(buffer).getUint32(0);
    const message = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    this.#serverSeq = Number(message.serverSeq);
    this.#received += 1;
    const media = message.media;
    const offset = Number(media.offset);
    if (offset < (this.#nextOffset ?? 0)) return;
    this.#nextOffset = offset + 1;
    this.#emit("media", { ...media, data: new Uint8Array(buffer, 4 + length) });
  }

  #lost(event) {
    this.#isAttached = false;
    if (this.#isOver) return;
    if (!this.#session) {
      this.#isOver = true;
      this.#emit("problem", { message: "The gateway cannot be reached. Check that it is running, then press Speak again.", isFinal: true });
    } else if (event.code === 1009) {
      this.#isOver = true;
      this.#emit("problem", { message: event.reason || "A message was too long for the gateway.", isFinal: true });
    } else if (this.#attempt >= TRIES) {
      this.#isOver = true;
      this.#emit("problem", { message: "The connection was lost and could not be made again. Press Speak to begin anew.", isFinal: true });
    } else {
      // The first try at once, then full jitter: pages that lost the same gateway must not come back all together.
      const most = Math.min(FIRST_RETRY_MS * 2 ** this.#attempt, MOST_RETRY_MS);
      const wait = this.#attempt++ === 0 ? 0 : Math.random() * most;
      this.#emit("reconnecting", {});
      setTimeout(() => { if (!this.#isOver) this.#connect(() => this.#attach()); }, wait);
    }
  }

  #emit(kind, detail) { this.dispatchEvent(new CustomEvent(kind, { detail })); }
}
