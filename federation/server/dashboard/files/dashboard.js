"use strict";
// Keeps the page up to date: fetches it anew and exchanges the parts that are marked as live.
const EVERY_MS = 5000;
const lost = document.getElementById("lost");

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch("/", { headers: { Accept: "text/html" }, cache: "no-store" });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const now = fresh.getElementById(part.id);
      if (now && now.innerHTML !== part.innerHTML) part.replaceChildren(...now.childNodes);
    }
    lost.hidden = true;
  } catch (error) {
    lost.hidden = false;
    lost.textContent = `No answer at ${new Date().toLocaleTimeString()}: ${error.message}`;
  }
}

async function run() {
  await refresh();
  setTimeout(run, EVERY_MS);
}

document.addEventListener("visibilitychange", refresh);
setTimeout(run, EVERY_MS);
