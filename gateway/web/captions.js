// Words under the picture that light up as they are spoken. It knows words and times on the media clock, nothing else.

import { seconds } from "./connection.js";

const WORDS_SHOWN = 28;
const LINE_PAUSE_S = 0.12;

export class Captions {
  #place;
  #words = [];  // {index, start, end, chunk position, element}

  constructor(place) { this.#place = place; }

  clear() {
    this.#words = [];
    this.#place.replaceChildren();
  }

  /** Add the words of one chunk's progress. */
  add(progress) {
    for (const word of progress.words ?? []) {
      const element = document.createElement("span");
      element.className = "word";
      element.textContent = word.text;
      this.#words.push({ start: seconds(word.start), end: seconds(word.end), position: Number(progress.position), element });
      this.#place.append(element, " ");
    }
    while (this.#words.length > WORDS_SHOWN && this.#words[0].element.classList.contains("lit")) this.#drop(this.#words.shift());
  }

  /** Forget the words of chunks from `position` on. */
  retire(position) { this.#keep((word) => word.position < position); }

  /** Forget the words that were not heard before `time`. */
  cut(time) { this.#keep((word) => word.start < time); }

  /** Light what has been spoken at `time`. */
  light(time) {
    for (const word of this.#words) {
      word.element.classList.toggle("lit", time >= word.start);
      word.element.classList.toggle("now", time >= word.start && time < word.end + LINE_PAUSE_S);
    }
  }

  #keep(isKept) {
    this.#words.filter((word) => !isKept(word)).forEach((word) => this.#drop(word));
    this.#words = this.#words.filter(isKept);
  }

  #drop(word) {
    word.element.nextSibling?.remove();
    word.element.remove();
  }
}
