"use strict";
// Asks for the study's state every two seconds; a new report takes the old one's place, scrolled as that is when it goes.
const line = document.getElementById("state");
const frame = document.getElementById("report");
let shown = null;

async function look() {
  try {
    const state = await (await fetch("/state")).json();
    const begun = state.begun ? `, ${state.begun} begun` : "";
    const made = state.made ? `; report of ${state.made}` : "; the report is being made";
    line.textContent = `${state.ended} of ${state.cells} cells have ended${begun}${made}${state.fault ? `; ${state.fault}` : ""}`;
    if (shown !== null && state.number > shown) frame.contentWindow.location.reload(); // a browser keeps its place
    shown = state.number;
  } catch {
    line.textContent = "lorabench serve has ended; the report below is the last one";
  }
  setTimeout(look, 2000);
}
look();
