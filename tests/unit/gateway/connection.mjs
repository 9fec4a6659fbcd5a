// Drives the page's Connection over sockets that a script plays, and prints what it did as JSON.
//   node connection.mjs FOLDER-OF-THE-PAGE

import { readFileSync } from "node:fs";

globalThis.location = { protocol: "http:", host: "gateway:1" };
globalThis.CustomEvent ??= class extends Event {
  constructor(kind, options) { super(kind); this.detail = options.detail; }
};
const sockets = [];
globalThis.WebSocket = class {
  static OPEN = 1;
  readyState = 1;
  sent = [];
  constructor() { sockets.push(this); setTimeout(() => this.onopen(), 0); }
  send(text) { this.sent.push(JSON.parse(text)); }
  close(code) { this.closed = code; setTimeout(() => this.onclose({ code }), 0); }
  say(message) { this.onmessage({ data: JSON.stringify(message) }); }
};

const source = readFileSync(`${process.argv[2]}/connection.js`, "utf8");
const { Connection } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
const attached = (serverSeq) => ({ stream: { serverSeq, attached: { lastClientSeq: "0", mediaOffset: "0", tracks: [] } } });
const turn = () => new Promise((done) => setTimeout(done, 200));

const heard = [];
const connection = new Connection();
for (const kind of ["attached", "retired", "responseEnded", "progress", "reconnecting", "problem"]) {
  connection.addEventListener(kind, () => heard.push(kind));
}
connection.open({}, "");
await turn();
const first = sockets[0];
first.say({ created: { session: { name: "tenants/local/sessions/s" }, attachToken: "token" } });
first.say(attached("1"));
connection.say("hello");
first.say({ stream: { serverSeq: "2", goAway: { reason: "GO_AWAY_REASON_DRAINING", resumeToken: "elsewhere" } } });
await turn();
const second = sockets[1];
second.say(attached("1"));
for (const again of [false, true]) {
  second.say({ stream: { serverSeq: "2", retired: { generation: "1", firstPosition: "2" } } });
  second.say({ stream: { serverSeq: "3", responseEnded: { responseId: "r1" } } });
  second.say({ stream: { serverSeq: "4", progress: { chunkIndex: "0" } } });
  if (again) second.onclose({ code: 1006 });
}
await turn();
console.log(JSON.stringify({
  sockets: sockets.length, closed: first.closed, attach: second.sent[0], again: second.sent[1], heard,
  third: sockets[2]?.sent[0]?.stream?.attach?.resumeToken,
}));
process.exit(0);
