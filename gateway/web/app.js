// The page: joins the gallery, the composer, the player, the captions and the panel to one session.

import { Captions } from "./captions.js";
import { Connection, seconds } from "./connection.js";
import { Player } from "./player.js";

const ACKNOWLEDGE_MS = 250;
const RTF_CHUNKS = 8;
const at = (id) => document.getElementById(id);

const player = new Player(at("video"));
const captions = new Captions(at("captions"));
let characters = [];
let chosen = null;
let connection = null;
let chunkSeconds = 0;
let saidAt = null;         // when Speak was pressed, until its first chunk is here
let tracksOfChunk = new Map();
let factors = [];
let speech = { from: 0, until: 0, isWhole: true };  // media times of what is being said

function show(state, sentence) {
  at("lamp").dataset.state = state;
  at("status").textContent = sentence;
}

function complain(sentence, kind = "problem") {
  at("problem").hidden = !sentence;
  at("problem").dataset.kind = kind;
  at("problem").textContent = sentence;
}

const isLive = () => connection !== null;

// The API key, where the gateway asks for one; this tab alone keeps it.
const key = () => sessionStorage.getItem("key") ?? "";

function askForKey() {
  const given = window.prompt("This gateway asks who you are. API key:")?.trim();
  if (!given) return;
  sessionStorage.setItem("key", given);
  complain("Press Speak again.");
}

function choose(character) {
  if (chosen === character) return;
  if (isLive()) leave();
  chosen = character;
  for (const button of at("gallery").children) {
    button.setAttribute("aria-checked", String(button.dataset.name === character.name));
  }
  at("poster").src = character.portrait;
  at("poster").alt = character.description;
  at("nameplate").textContent = character.title;
  show("", `${character.title} waits for words.`);
}

async function fillGallery() {
  const answer = await fetch("/api/characters");
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error?.message ?? "The cast could not be loaded.");
  characters = body.characters;
  at("prompting").hidden = !body.readsPrompts;
  at("gallery").replaceChildren(...characters.map((character) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "portrait";
    button.dataset.name = character.name;
    button.title = character.description;
    button.setAttribute("role", "radio");
    const picture = document.createElement("img");
    picture.src = character.portrait;
    picture.alt = "";
    const name = document.createElement("span");
    name.textContent = character.title;
    button.append(picture, name);
    button.addEventListener("click", () => choose(character));
    return button;
  }));
  if (characters.length) choose(characters[0]);
  else complain("This gateway's bundle has no characters.");
}

function enter() {
  connection = new Connection();
  const on = (kind, react) => connection.addEventListener(kind, (event) => react(event.detail));
  on("attached", attached);
  on("media", received);
  on("progress", progressed);
  on("responseEnded", () => { speech.isWhole = true; });
  on("retired", (retired) => {
    const position = Number(retired.firstPosition);
    player.retire(position * chunkSeconds, Number(retired.generation));
    captions.retire(position);
  });
  on("stateChanged", stateChanged);
  on("notice", (notice) => complain(notice.text, "notice"));
  on("error", (error) => { saidAt = null; complain(error.status.message); });
  on("reconnecting", () => show("waiting", "The connection was lost. Trying again."));
  on("problem", (problem) => {
    complain(problem.message);
    if (problem.reason === "BAD_CREDENTIALS") askForKey();
    if (problem.isFinal) leave(); else show("waiting", "Trying again.");
  });
  show("waiting", "Setting the stage.");
  connection.open({ character: chosen.name, regime: "conversation", video: { container: "MEDIA_CONTAINER_FMP4" } }, key());
  at("interrupt").disabled = false;
}

function leave() {
  connection?.close();
  connection = null;
  player.stop();
  captions.clear();
  at("asked").textContent = "";
  at("video").classList.remove("live");
  at("interrupt").disabled = true;
  saidAt = null;
  factors = [];
  tracksOfChunk = new Map();
  speech = { from: 0, until: 0, isWhole: true };
  for (const figure of ["rtf", "ttfc", "lead"]) at(figure).textContent = "–";
  show("problem", "The stage is empty.");
}

let startedFor = null;
let videoTimescale = 1;
function attached(message) {
  videoTimescale = message.tracks[0].timescale;
  show("ready", `${chosen.title} is on stage.`);
  if (at("problem").dataset.kind === "problem") complain("");
  if (startedFor === connection) return;  // attached again: the media go on where they were
  startedFor = connection;
  player.start(message.tracks).catch((fault) => { complain(fault.message); leave(); });
}

function received(media) {
  if (media.track === 1) chunkSeconds = media.duration / videoTimescale;
  player.append(media);
  at("video").classList.add("live");
  if (media.responseId) heardOf(Number(media.position) * chunkSeconds);
  if (!media.responseId || saidAt === null) return;
  const tracks = (tracksOfChunk.get(media.chunkIndex) ?? 0) + 1;
  tracksOfChunk.set(media.chunkIndex, tracks);
  if (tracks === 2) {
    at("ttfc").textContent = `${((performance.now() - saidAt) / 1000).toFixed(2)} s`;
    saidAt = null;
    tracksOfChunk.clear();
  }
}

function heardOf(start) {
  speech = { from: speech.isWhole ? start : speech.from, until: start + chunkSeconds, isWhole: false };
}

function progressed(progress) {
  chunkSeconds = seconds(progress.chunkDuration) || chunkSeconds;
  captions.add(progress);
  at("asked").textContent = progress.prompt ?? "";
  if (!seconds(progress.computeTime) || !chunkSeconds) return;
  factors = [...factors, seconds(progress.computeTime) / chunkSeconds].slice(-RTF_CHUNKS);
  at("rtf").textContent = factors.toSorted((a, b) => a - b)[factors.length >> 1].toFixed(2);
}

function stateChanged(change) {
  const sentences = {
    SESSION_STATE_ACTIVE: ["ready", `${chosen.title} is on stage.`],
    SESSION_STATE_RECOVERING: ["waiting", "The performance was lost for a moment and is being restored."],
  };
  const found = sentences[change.state];
  if (found) show(...found);
  if (/CLOSED|FAILED/.test(change.state)) {
    complain(change.state.endsWith("FAILED") ? "The session failed. Press Speak to begin anew." : "The session has ended. Press Speak to begin anew.");
    leave();
  }
}

function speak(event) {
  event.preventDefault();
  complain("");
  const text = at("text").value.trim();
  if (!text) return complain("There are no words to speak yet. Write some first.");
  if (!chosen) return complain("Nobody is on stage. Choose someone from the cast.");
  if (!isLive()) enter();
  saidAt = performance.now();
  connection.say(text);
  at("video").play().catch(() => {});
  return undefined;
}

function ask(event) {
  event.preventDefault();
  complain("");
  const text = at("prompt").value.trim();
  if (!text) return complain("Write first what the picture shall show.");
  if (!chosen) return complain("Nobody is on stage. Choose someone from the cast.");
  if (!isLive()) enter();
  connection.prompt(text);
  at("prompt").value = "";
  at("video").play().catch(() => {});
  return undefined;
}

function interrupt() {
  if (!isLive()) return;
  const playhead = player.playhead;
  const border = chunkSeconds ? Math.ceil((playhead + 0.001) / chunkSeconds) * chunkSeconds : playhead;
  player.hush(border);
  captions.cut(playhead);
  connection.interrupt(playhead);
  speech.until = playhead;
  show("ready", `${chosen.title} has stopped.`);
}

function showSpeech(playhead) {
  const state = at("lamp").dataset.state;
  if (state !== "speaking" && playhead >= speech.from && playhead < speech.until) show("speaking", `${chosen.title} is speaking.`);
  else if (state === "speaking" && playhead >= speech.until) show("ready", `${chosen.title} is listening.`);
}

function refresh() {
  if (isLive() && at("video").classList.contains("live")) {
    captions.light(player.playhead);
    at("lead").textContent = `${player.lead.toFixed(1)} s`;
    showSpeech(player.playhead);
  }
  requestAnimationFrame(refresh);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* a browser that keeps nothing still shows a theme */ }
}

function firstTheme() {
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* as above */ }
  return kept ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

document.documentElement.dataset.theme = firstTheme();
at("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
at("composer").addEventListener("submit", speak);
at("prompting").addEventListener("submit", ask);
at("text").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) speak(event); });
at("interrupt").addEventListener("click", interrupt);
player.onTrouble = (message) => complain(`The picture could not be played: ${message}.`);
setInterval(() => { if (isLive()) connection.acknowledge(player.playhead); }, ACKNOWLEDGE_MS);
addEventListener("pagehide", () => { if (isLive()) connection.close(); });
requestAnimationFrame(refresh);
fillGallery().catch((fault) => { complain(fault.message || "The cast could not be loaded."); show("problem", "The gateway does not answer."); });
