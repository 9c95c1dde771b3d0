import { Camera } from "./camera.js";
import { Connection } from "./connection.js";
import { RobotMap } from "./map.js";
import { Putting } from "./putting.js";
import { SentenceBox } from "./sentences.js";

const by = (id) => document.getElementById(id);
const LOG_KEPT = 200;
const UNANSWERED_MS = 1000;
const WAITS = "…";

let driving = { you: false, who: "", viewers: 0 };
let paused = false;
let lastNote = 0;
let openedS = Infinity; // by the node's clock

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function say(node, text) {
  node.textContent = text;
  node.hidden = !text;
}

// ---------------------------------------------------------------------- what the robot says

const map = new RobotMap(by("map"));
const camera = new Camera(
  by("camera"),
  by("goal"),
  by("no-picture"),
  (number) => connection.send({ kind: "shown", number }),
  (plan) => map.setPlan(plan),
);
const putting = new Putting({
  map,
  form: by("world"),
  select: by("start"),
  button: by("put"),
  hint: by("putting"),
  here: by("here"),
  send: sendAsDriver,
});

const ARROWS = [["forward", "↑"], ["left", "↶"], ["right", "↷"], ["stop", "■"]];

function actionText(action) {
  const arrow = ARROWS.find(([word]) => action.startsWith(word));
  return arrow ? `${arrow[1]} ${action.replace(/^(forward|left|right) /, "").replace(" deg", "°")}` : action;
}

const hear = {
  welcome({ robot, examples, time_s }) {
    if (openedS === Infinity) openedS = time_s - performance.now() / 1000;
    by("robot").textContent = `on ${robot}`;
    document.title = `${robot} – vln_ros`;
    by("examples").replaceChildren(
      ...examples.map((sentence) => {
        const button = element("button", sentence, { type: "button" });
        button.onclick = () => {
          by("instruction").value = sentence;
          by("instruction").focus();
        };
        return button;
      }),
    );
  },
  driving(now) {
    driving = now;
    showDriving();
  },
  state({ level, headline, reasons, paused: isPaused }) {
    paused = isPaused;
    by("state").dataset.level = level;
    by("headline").textContent = headline;
    by("reasons").replaceChildren(...reasons.map((reason) => element("li", reason)));
    showRelease();
  },
  standstill({ asked, confirmed, text }) {
    if (asked) connection.stopWanted = false;
    else if (connection.stopWanted) return;
    by("standstill").dataset.level = confirmed ? "ok" : "bad";
    say(by("standstill"), asked ? text : "");
    by("standstill").dataset.asked = asked;
    showRelease();
  },
  task({ text }) {
    say(by("task"), text);
    by("no-task").hidden = Boolean(text);
  },
  navigator({ text }) {
    say(by("navigator"), text);
  },
  queue({ actions, left }) {
    by("queue").replaceChildren(...actions.slice(actions.length - left).map((a) => element("li", actionText(a))));
  },
  goal(goal) {
    camera.setGoal(goal);
  },
  goal_place({ point }) {
    map.setGoal(point);
  },
  place(place) {
    map.setPlace(place);
  },
  trail({ points }) {
    map.setTrail(points);
  },
  path_ahead({ points }) {
    map.setPath(points);
  },
  obstacles({ points }) {
    map.setObstacles(points);
  },
  world_map(area) {
    map.setArea(area.width_m > 0 ? area : null);
  },
  starts(starts) {
    putting.offer(starts);
  },
  gauges({ gauges }) {
    by("gauge-list").replaceChildren(
      ...gauges.map(({ name, value, unit }) => {
        const box = document.createElement("div");
        const number = element("dd", `${value} `);
        number.append(element("small", unit));
        box.append(element("dt", name), number);
        return box;
      }),
    );
  },
  reports({ reports }) {
    if (!by("details").querySelector("details").open && by("reports").childElementCount) return;
    by("reports").replaceChildren(
      ...reports.flatMap(({ node, level, summary, rows }) => {
        const table = document.createElement("table");
        for (const [key, value] of rows) {
          const row = table.insertRow();
          row.insertCell().textContent = key;
          row.insertCell().textContent = value;
        }
        return [element("h3", `${node}: ${summary}`, { "data-level": level }), table];
      }),
    );
  },
  note({ number, time_s, what, text }) {
    if (number <= lastNote) return;
    lastNote = number;
    const line = element("li", "", { "data-what": what });
    line.append(element("time", new Date(time_s * 1000).toLocaleTimeString([], { hour12: false })));
    line.append(element("b", what), element("span", text));
    by("log").prepend(line);
    while (by("log").childElementCount > LOG_KEPT) by("log").lastElementChild.remove();
    if (time_s < openedS) return; // of before this page was there: only the log tells of it
    if (what === "answer" || what === "unanswered") say(by("answer"), text);
    // Where the person looks who is refused: on a phone the map is far from the boxes.
    if (what === "refused" && by("answer").textContent === WAITS) say(by("answer"), "");
    if (what === "refused") say(by(text.startsWith("not put there") ? "not-put" : "refusal"), sentence(text));
    if (what === "instruction" || what === "release") say(by("refusal"), "");
  },
  refused({ text }) {
    say(by("refusal"), sentence(text));
  },
};

function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}

const connection = new Connection({
  onMessage: (message) => hear[message.kind]?.(message),
  onPicture: (buffer) => camera.take(buffer),
  onChange(isOpen) {
    by("connection").textContent = isOpen ? "connected" : "no connection: STOP cannot reach the robot";
    by("connection").dataset.level = isOpen ? "ok" : "bad";
    if (isOpen) {
      lastNote = 0; // the node may be another one, with a log of its own
      by("log").replaceChildren();
      camera.beginAnew();
      sendView();
    } else {
      driving = { you: false, who: "", viewers: 0 };
    }
    showDriving();
  },
});

// ---------------------------------------------------------------------- what the person says

function showDriving() {
  const others = driving.viewers > 1 ? ` ${driving.viewers} pages are open.` : "";
  const who = driving.you ? "You drive." : driving.who ? `${driving.who} drives.` : "Nobody drives.";
  by("driving").textContent = connection.isOpen ? who + others : "";
  by("drive").textContent = driving.you ? "Leave the wheel" : driving.who ? "Take over" : "Take the wheel";
  by("drive").disabled = !connection.isOpen;
  if (driving.you || !driving.who) by("drive").classList.remove("urged");
  showRelease();
}

function showRelease() {
  by("release").hidden = !(paused || by("standstill").dataset.asked === "true");
  by("release").disabled = !driving.you && Boolean(driving.who);
}

function stop() {
  if (!connection.stop()) {
    sayNotStopped("No connection: STOP is sent as soon as there is one. Use the robot's own stop!");
    return;
  }
  setTimeout(() => {
    if (connection.stopWanted) sayNotStopped("STOP was sent, and no answer comes. Use the robot's own stop!");
  }, UNANSWERED_MS);
}

function sayNotStopped(text) {
  by("standstill").dataset.level = "bad";
  say(by("standstill"), text);
}

// As the driver; where nobody is, this page becomes it.
function sendAsDriver(request) {
  say(by("refusal"), "");
  say(by("not-put"), "");
  if (!connection.isOpen) {
    say(by("refusal"), "No connection: nothing was sent.");
    return false;
  }
  if (!driving.you && driving.who) {
    say(by("refusal"), "Somebody else drives: take over first.");
    by("drive").classList.add("urged");
    return false;
  }
  if (!driving.you) connection.send({ kind: "drive", take_over: false });
  return connection.send(request);
}

function sendView() {
  connection.send({ kind: "view", name: document.hidden ? "none" : camera.view });
}

const instruction = new SentenceBox(by("instruction"), "instructions");
const question = new SentenceBox(by("question"), "questions");

by("stop").addEventListener("click", stop);
by("release").addEventListener("click", () => sendAsDriver({ kind: "release" }));
by("drive").addEventListener("click", () => {
  say(by("refusal"), "");
  if (driving.you) connection.send({ kind: "leave" });
  else connection.send({ kind: "drive", take_over: Boolean(driving.who) });
});
by("instruct").addEventListener("submit", (event) => {
  event.preventDefault();
  if (instruction.text && sendAsDriver({ kind: "instruct", text: instruction.text })) instruction.clear();
});
by("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!question.text) return;
  say(by("refusal"), "");
  if (connection.send({ kind: "ask", text: question.text })) {
    question.clear();
    say(by("answer"), WAITS);
  } else {
    say(by("refusal"), "No connection: nothing was sent.");
  }
});
for (const button of document.querySelectorAll("[data-view]")) {
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll("[data-view]")) other.ariaPressed = String(other === button);
    camera.choose(button.dataset.view);
    by("legend").hidden = button.dataset.view !== "reuse";
    by("no-picture").textContent =
      button.dataset.view === "reuse" ? "Nothing is reused, or there is no decision yet" : "No picture yet";
    sendView();
  });
}
document.addEventListener("visibilitychange", sendView);

// Space stops, wherever the focus is but in a text box, where it is a space; Escape stops there, too. Both before
// anything else: a button that has the focus is not pressed by it.
document.addEventListener(
  "keydown",
  (event) => {
    const writes = event.target instanceof HTMLInputElement;
    if (event.key !== "Escape" && (event.key !== " " || writes || event.ctrlKey || event.altKey || event.metaKey)) return;
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) stop();
  },
  true,
);
document.addEventListener("keyup", (event) => {
  if (event.key === " " && !(event.target instanceof HTMLInputElement)) event.preventDefault();
}, true);
