"use strict";
// Keys for readers and buttons that copy code. Pages work without it.

const items = () => [...document.querySelectorAll("[data-item]")];

function step(by) {
  const all = items();
  if (!all.length) return;
  const at = all.findIndex((item) => item === document.activeElement || item.contains(document.activeElement));
  const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(Math.max(at + by, 0), all.length - 1);
  all[next].focus({ preventScroll: true });
  all[next].scrollIntoView({ block: "start" });
}

function follow(selector) {
  const link = document.querySelector(selector);
  if (link) link.click();
}

function help() {
  const dialog = document.getElementById("keys");
  if (!dialog) return;
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

const keys = {
  j: () => step(1),
  k: () => step(-1),
  n: () => follow("a[rel=next]"),
  p: () => follow("a[rel=prev]"),
  Enter: () => {
    const link = document.activeElement.matches("[data-item]") && document.activeElement.querySelector("a");
    if (link) link.click();
    return Boolean(link);
  },
  "/": () => {
    const field = document.querySelector("[data-search]");
    if (field) { field.focus(); field.select(); }
  },
  "?": help,
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]):not([type=radio]), textarea, select");
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (document.querySelector("dialog[open]") && event.key !== "?") return;
  if (typing) {
    if (event.key === "Escape") typing.blur();
    return;
  }
  const act = keys[event.key];
  if (act && act() !== false) event.preventDefault();
});

for (const button of document.querySelectorAll("[data-keys]")) {
  button.hidden = false;
  button.addEventListener("click", help);
}

for (const block of document.querySelectorAll("pre[data-copy]")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(block);
      button.textContent = "Press Ctrl+C";
    }
  });
  block.after(button);
}
