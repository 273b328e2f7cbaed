// The page's behaviour. `element` (page.html) and `props` come from Gradio; its controls call `window.synergic`.
// A picture of the page: {file, name, state, token, width, height, asked, results, error, item, ...}. Its state: queued,
// sending, then what the server says (waiting, running, restored, stopped, failed). `drawing` is what the server says of
// a drawing that it is making ({name, state, ...}), `laid` the name of the one that lies over the picture.

const find = (selector) => element.querySelector(selector);
const viewer = find(".viewer"), stage = find(".stage"), handle = find(".handle"), list = find(".names");
const before = find("img.degraded"), after = find("img.restored"), drawing = find("img.drawing");
const FIELDS = {
  denoise: { option: "sigma", label: "Grain", form: /^\d+\.?\d*$/, least: 0, most: 255 },
  jpeg: { option: "quality", label: "JPEG quality", form: /^\d+$/, least: 1, most: 100 },
}; // by task
const UNDER_WAY = ["sending", "waiting", "running"];

let pictures = [];
let shown = null; // the picture in the viewer
let asked = { task: "auto" }; // the options of the next run
let strength = 1;
let notice = null; // a line that belongs to no picture
let working = false;

// ---- talking to the server

async function send(method, path, options = {}) {
  const response = await fetch(path, { method, ...options });
  if (response.ok) return response;
  throw Object.assign(new Error((await response.text()).trim()), { status: response.status });
}

const said = (error) =>
  error instanceof TypeError ? "no connection to Synergic; is it still running?" : error.message;

const leave = (path) => send("DELETE", path).then(() => true, () => false); // in vain: the server deletes it in time

const rest = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function add(files) {
  const given = [...files], room = props.kept - pictures.length;
  notice = null;
  if (given.length > room) // the server holds no more; better said before the first is sent than at the last
    notice = `pictures: expected at most ${props.kept} in all, got ${pictures.length + given.length}; remove some first`;
  const added = notice ? [] : given.map((file) => ({ file, name: file.name, state: "queued", asked, results: 0 }));
  pictures.push(...added);
  if (added.length) show(added[0]);
  draw();
  work();
}

async function work() {
  if (working) return;
  working = true;
  let next;
  while ((next = pictures.find((picture) => picture.state === "queued"))) {
    try {
      await restore(next);
    } catch (error) {
      change(next, error.name === "AbortError" ? { state: "stopped" } : { state: "failed", error: said(error) });
    }
    if (!pictures.includes(next)) forget(next); // removed before its token was known
  }
  working = false;
}

async function restore(picture) {
  if (wrong(picture.asked)) throw new Error(wrong(picture.asked));
  picture.abort = new AbortController();
  change(picture, { state: "sending" });
  if (!picture.token) await handIn(picture);
  try {
    await start(picture);
  } catch (error) {
    if (error.status !== 404) throw error;
    await handIn(picture); // the server has thrown it away meanwhile
    await start(picture);
  }
  let stopped = false; // as far as the server has heard
  while (UNDER_WAY.includes(picture.state) && pictures.includes(picture)) {
    stopped ||= picture.abort.signal.aborted && (await leave(`pictures/${picture.token}/run`));
    await follow(picture);
    await rest(250);
  }
}

async function start(picture) {
  const { token, asked, abort: { signal } } = picture;
  signal.throwIfAborted(); // cancelled after its last byte was sent
  try {
    await send("POST", `pictures/${token}/run?${new URLSearchParams(asked)}`);
  } catch (error) {
    if (error.status !== 409) throw error;
    await leave(`pictures/${token}/run`); // the answer to an earlier start was lost
    while (UNDER_WAY.includes((await (await send("GET", `pictures/${token}`)).json()).state)) await rest(250);
    await start(picture);
  }
}

function wrong(asked) { // what a field says that cannot be, as a line; null if there is nothing
  const { option, label, form, least, most } = FIELDS[asked.task] ?? {};
  const given = asked[option];
  if (given === undefined || (form.test(given) && given >= least && given <= most)) return null;
  return `${label}: expected ${least} to ${most}, got ${given}; leave it empty if it is not known`;
}

async function handIn(picture) {
  if (picture.file.size > props.file_bytes)
    throw new Error(`file: expected at most ${props.file_bytes / 1e6} MB, got ${Math.ceil(picture.file.size / 1e6)}`);
  const suffix = picture.name.match(/\.\w+$/)?.[0] ?? ""; // of its name the server learns no more
  const options = { body: picture.file, signal: picture.abort.signal };
  await picture.file.slice(0, 1).arrayBuffer().catch(() => {
    throw new Error("file: expected one that can be read, got a folder, or one that has changed; choose it again");
  });
  const handed = await (await send("PUT", `pictures/picture${suffix}`, options)).json();
  change(picture, { results: 0, made: null, laid: null, warnings: [], ...handed }); // nothing of an earlier token
}

async function follow(picture) {
  try {
    const state = await (await send("GET", `pictures/${picture.token}`)).json();
    const fresh = { results: picture.results + 1, made: made(picture, state.task), laid: null };
    const { error } = picture; // of a download, say: it stays
    change(picture, { lost: false, error, ...state, ...(state.state === "restored" ? fresh : {}) });
  } catch (error) {
    if (!(error instanceof TypeError || [502, 503, 504].includes(error.status))) throw error;
    change(picture, { lost: true, error: picture.error }); // a phone that slept, a proxy; the server goes on meanwhile
    await rest(1000);
  }
}

const made = (picture, task) =>
  `${props.words[task]} removed${picture.asked.task === "auto" ? ", as Automatic chose" : ""}`;

async function lay(name) {
  const picture = shown;
  if (picture.drawing) return;
  if (picture.laid === name) return change(picture, { laid: null });
  const drawing = { name };
  change(picture, { drawing });
  const end = await drawn(picture, drawing).then(
    (done) => ({ laid: done ? name : null }),
    (error) => ({ error: said(error) }),
  );
  if (picture.drawing === drawing) change(picture, { drawing: null, ...end });
  else if (!picture.drawing && picture.token) leave(viewPath(picture, name)); // cancelled while it was asked for
}

async function drawn(picture, drawing) {
  let state = await (await send("POST", viewPath(picture, drawing.name))).json();
  while (picture.drawing === drawing) {
    Object.assign(drawing, state.drawings[drawing.name]);
    if (drawing.state === "failed") throw new Error(drawing.error);
    if (!UNDER_WAY.includes(drawing.state)) return drawing.state === "drawn";
    draw();
    await rest(250);
    state = await (await send("GET", `pictures/${picture.token}`)).json();
  }
  return false; // the visitor wants it no more
}

function leaveDrawing(picture) {
  if (!picture.drawing) return;
  leave(viewPath(picture, picture.drawing.name));
  change(picture, { drawing: null });
}

const viewPath = (picture, view) => `pictures/${picture.token}/views/${encodeURIComponent(view)}`;

function cancel() {
  for (const picture of pictures) {
    if (picture.state === "queued") picture.state = "stopped";
    if (!UNDER_WAY.includes(picture.state)) continue;
    picture.abort.abort();
  }
  draw();
}

function remove(picture) {
  picture.abort?.abort();
  picture.drawing = null;
  forget(picture);
  pictures = pictures.filter((other) => other !== picture);
  notice = null;
  if (picture === shown) show(pictures[0] ?? null);
  draw();
}

function forget(picture) {
  if (picture.token) leave(`pictures/${picture.token}`);
  picture.token = null;
}

async function save(picture) {
  change(picture, {});
  try {
    const response = await send("GET", `pictures/${picture.token}/file?strength=${strength}`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = picture.name.replace(/(\.\w+)$/, "-restored$1");
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    if (!pictures.includes(picture)) return; // removed meanwhile
    if (error.status !== 404) {
      show(picture); // or the error would not be seen
      return change(picture, { error: said(error) });
    }
    regain(picture);
  }
}

function regain(picture) { // the server has thrown it away
  if (UNDER_WAY.includes(picture.state) || picture.state === "queued") return; // it is handed in anew already
  notice = "the server had thrown pictures away; they are being restored again";
  change(picture, { token: null, width: null, results: 0, drawing: null, state: "queued" });
  work();
}

function keep() { // what lies on an open page is in use
  for (const { token } of pictures) if (token) send("GET", `pictures/${token}`).catch(() => {});
}

window.synergic = {
  blend(value) {
    strength = value;
    after.style.opacity = value;
  },
  ask(task, sigma, quality) {
    asked = { task };
    const option = FIELDS[task]?.option;
    const given = { sigma, quality }[option]?.trim().replace(",", ".");
    if (given) asked[option] = given;
    draw();
  },
  again(all) {
    if (wrong(asked)) return; // it is said already
    for (const picture of (all ? pictures : [shown]).filter(isOld)) {
      leaveDrawing(picture);
      change(picture, { state: "queued", asked });
    }
    work();
  },
  async save(all) {
    const button = document.querySelector(all ? "#save-all" : "#save");
    const label = button.textContent;
    button.disabled = true;
    button.textContent = "Preparing…";
    for (const picture of all ? pictures.filter((picture) => picture.results) : [shown])
      if (pictures.includes(picture)) await save(picture); // or it was removed meanwhile
    button.textContent = label;
    button.disabled = false;
  },
};

// ---- what is drawn

function change(picture, changes) {
  Object.assign(picture, changes.error ? {} : { error: null }, changes);
  if (picture === shown) show(picture);
  draw();
}

function draw() {
  const panel = document.documentElement.dataset;
  panel.pictures = pictures.length ? "some" : "none";
  panel.restored = shown?.results ? "yes" : "no";
  panel.several = pictures.filter((picture) => picture.results).length > 1 ? "yes" : "no";
  panel.task = asked.task;
  panel.again = shown && isOld(shown) ? "yes" : "no";
  panel.againAll = pictures.filter(isOld).length > 1 ? "yes" : "no";
  drawNames();
  drawProgress();
  const failure = shown?.error && `${shown.name}: ${shown.error.replace("picture: ", "")}`;
  const field = pictures.length && shown?.error !== wrong(asked) && wrong(asked);
  const lines = [failure, field, notice].filter(Boolean);
  tell(".trouble", lines.join("\n"));
}

function tell(selector, text) { // only what is new: a screen reader speaks, and a selection is lost, every time
  const place = find(selector);
  if (place.textContent !== text) place.textContent = text;
  if (selector !== ".told") place.hidden = !text; // what is hidden is not spoken
}

function isOld(picture) {
  const same = picture.state === "restored" && JSON.stringify(picture.asked) === JSON.stringify(asked);
  return !same && picture.state !== "queued" && !UNDER_WAY.includes(picture.state);
}

function drawNames() {
  list.hidden = pictures.length === 0;
  const items = pictures.map((picture) => (picture.item ??= named(picture)));
  for (const item of [...list.children]) if (!items.includes(item)) item.remove();
  list.append(...items.filter((item) => !item.parentNode)); // the others stay: one of them may be under a finger
  for (const picture of pictures) {
    const kept = picture.results && !UNDER_WAY.includes(picture.state) && picture.state !== "queued";
    picture.item.className = kept ? "restored" : picture.state; // an earlier result outlives a run that failed
    const name = picture.item.firstChild, size = picture.width && `${picture.width} × ${picture.height}`;
    name.title = [picture.name, size, picture.made].filter(Boolean).join(", ");
    name.ariaCurrent = picture === shown;
  }
}

function named(picture) {
  const item = document.createElement("li");
  const name = item.appendChild(document.createElement("button"));
  const away = item.appendChild(document.createElement("button"));
  name.textContent = picture.name;
  name.onclick = () => show(picture);
  away.textContent = "×";
  away.ariaLabel = `Remove ${picture.name}`;
  away.onclick = () => {
    const place = pictures.indexOf(picture);
    remove(picture);
    const next = pictures[place] ?? pictures.at(-1);
    (next?.item.lastChild ?? find(".drop input")).focus();
  };
  return item;
}

function drawProgress() {
  const picture = pictures.find((picture) => UNDER_WAY.includes(picture.state));
  const bar = find("progress");
  const run = shown?.drawing ?? picture;
  const doing = run === picture ? "Restoring…" : "Drawing…";
  const told = run ? doing : shown?.made ?? ""; // to who does not see it, without every second that is left
  tell(".told", told);
  find(".progress").hidden = !run;
  if (!run) return;
  if (run.state === "running" && run.share !== null) bar.value = run.share;
  else bar.removeAttribute("value");
  const of = run === picture && pictures.length > 1 ? `${pictures.indexOf(picture) + 1} of ${pictures.length}: ` : "";
  find(".progress span").textContent = of + words(run, doing);
}

function words({ state, abort, lost, ahead, seconds_left: left }, doing) {
  if (abort?.signal.aborted) return "Stopping…";
  if (lost) return "Connection lost, trying again…";
  if (state === "sending") return "Sending…";
  if (state === "waiting" && ahead) return `Waiting, ${ahead === 1 ? "one picture comes" : `${ahead} pictures come`} first`;
  if (state !== "running" || left < 1.5) return doing; // null, not known, as well
  return left > 90 ? `About ${Math.round(left / 60)} minutes left` : `About ${Math.round(left)} seconds left`;
}

// ---- the viewer: one stage, moved and scaled, with the restored picture over the degraded one to the right of a line

let scale = 1, left = 0, top = 0; // of the stage, in pixels of the page
let split = 0.5; // where the line is, as a share of the viewer's width
const pointers = new Map();

function show(picture) {
  const other = picture !== shown;
  shown = picture;
  viewer.hidden = !picture?.width;
  find(".drawings").hidden = !picture?.results;
  if (viewer.hidden) return draw();
  if (other) for (const image of [before, after, drawing]) image.removeAttribute("src");
  source(before, viewPath(picture, "degraded"));
  if (picture.results) source(after, `${viewPath(picture, "restored")}?${picture.results}`);
  after.hidden = !picture.results;
  for (const part of [handle, find(".before"), find(".after")]) part.hidden = !picture.results || !!picture.laid;
  showDrawing(picture);
  if (other || viewer.dataset.token !== picture.token) {
    viewer.dataset.token = picture.token;
    viewer.style.aspectRatio = `${picture.width} / ${picture.height}`;
    for (const image of [before, after, drawing])
      Object.assign(image.style, { width: `${picture.width}px`, height: `${picture.height}px` });
    split = 0.5;
    fit();
  }
  if (other) draw();
}

function showDrawing(picture) {
  const { laid } = picture;
  tell(".made", picture.made ?? "");
  tell(".warnings", (picture.warnings ?? []).join("; "));
  drawing.hidden = !laid;
  drawing.alt = laid ?? "";
  if (laid) source(drawing, `${viewPath(picture, laid)}?${picture.results}`);
  tell(".legend", props.drawings[laid] ?? "");
  for (const button of element.querySelectorAll(".drawings button")) button.ariaPressed = button.textContent === laid;
}

function source(image, url) {
  if (image.getAttribute("src") !== url) image.src = url;
}

function smallest() {
  return Math.min(viewer.clientWidth / shown.width, viewer.clientHeight / shown.height, 8);
}

function fit() {
  scale = smallest();
  place();
}

function zoom(factor, x = viewer.clientWidth / 2, y = viewer.clientHeight / 2) {
  const to = Math.min(Math.max(scale * factor, smallest()), Math.max(8, smallest()));
  left = x - ((x - left) * to) / scale;
  top = y - ((y - top) * to) / scale;
  scale = to;
  place();
}

function place() {
  const inside = (position, size, room) =>
    size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, position));
  left = inside(left, shown.width * scale, viewer.clientWidth);
  top = inside(top, shown.height * scale, viewer.clientHeight);
  stage.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
  stage.classList.toggle("pixels", scale * devicePixelRatio >= 2);
  viewer.classList.toggle("zoomed", zoomed());
  const line = split * viewer.clientWidth;
  after.style.clipPath = `inset(0 0 0 ${Math.max(0, (line - left) / scale)}px)`;
  handle.style.left = `${line}px`;
  handle.ariaValueNow = Math.round(split * 100);
}

const zoomed = () => scale > smallest() * 1.001;

function slide(x) {
  split = Math.min(1, Math.max(0, x / viewer.clientWidth));
  place();
}

viewer.onpointerdown = (event) => {
  if (event.button || event.target.closest("button")) return; // the main button, a finger or a pen alone
  viewer.setPointerCapture(event.pointerId);
  const slides = !handle.hidden && (event.target === handle || !zoomed());
  pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY, slides });
  move(event);
};
viewer.onpointermove = (event) => pointers.has(event.pointerId) && move(event);
viewer.onpointerup = viewer.onpointercancel = (event) => pointers.delete(event.pointerId);

function move(event) {
  const box = viewer.getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  const { x: oldX, y: oldY, slides } = pointers.get(event.pointerId);
  const fresh = event.type === "pointerdown";
  pointers.set(event.pointerId, { x, y, slides });
  if (fresh) return slides && event.target !== handle && event.pointerType === "mouse" ? slide(x) : undefined;
  const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
  if (other) {
    const distance = (x, y) => Math.hypot(x - other.x, y - other.y);
    zoom(distance(x, y) / distance(oldX, oldY), (x + other.x) / 2, (y + other.y) / 2);
  } else if (slides) slide(x);
  else pan(x - oldX, y - oldY);
}

viewer.onwheel = (event) => {
  event.preventDefault();
  const box = viewer.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
};
viewer.ondblclick = (event) => {
  if (event.target.closest("button") || event.target === handle) return;
  const box = viewer.getBoundingClientRect();
  if (zoomed()) fit();
  else zoom(Math.max(1, scale * 2) / scale, event.clientX - box.left, event.clientY - box.top);
};

function pan(x, y) {
  left += x;
  top += y;
  place();
}

viewer.onkeydown = (event) => {
  const pans = zoomed() && event.target !== handle, step = 40; // pixels of the page
  const keys = {
    "+": () => zoom(1.5),
    "-": () => zoom(1 / 1.5),
    0: fit,
    ArrowLeft: () => (pans ? pan(step, 0) : slide((split - 0.02) * viewer.clientWidth)),
    ArrowRight: () => (pans ? pan(-step, 0) : slide((split + 0.02) * viewer.clientWidth)),
    ...(pans && { ArrowUp: () => pan(0, step), ArrowDown: () => pan(0, -step) }),
  };
  if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return; // the browser's own
  event.preventDefault();
  keys[event.key]();
};
find(".in").onclick = () => zoom(1.5);
find(".out").onclick = () => zoom(1 / 1.5);
find(".fit").onclick = fit;
new ResizeObserver(() => shown?.width && (viewer.classList.contains("zoomed") ? zoom(1) : fit())).observe(viewer);

for (const name of Object.keys(props.drawings)) {
  const button = find(".drawings").appendChild(document.createElement("button"));
  button.type = "button";
  button.textContent = name;
  button.ariaPressed = false;
  button.onclick = () => lay(name);
}
for (const image of [before, after])
  image.onerror = () => { // with its src, or it would be asked for again and again
    const picture = shown;
    if (!picture?.token) return;
    send("GET", `pictures/${picture.token}`).then(
      () => change(picture, { error: "view: expected to get it, got no answer; choose the picture again" }),
      (error) => (error.status === 404 ? regain(picture) : change(picture, { error: said(error) })),
    );
  };
drawing.onerror = () => {
  drawing.removeAttribute("src"); // or it would not be asked for again
  if (shown) change(shown, { laid: null, error: "drawing: expected to get it, got no answer; try again" });
};

// ---- in and out

find(".drop input").onchange = (event) => {
  add(event.target.files);
  event.target.value = "";
};
find(".cancel").onclick = () => (shown?.drawing ? leaveDrawing(shown) : cancel());
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.documentElement.dataset.dragging = "yes";
});
for (const end of ["dragleave", "drop"])
  document.addEventListener(end, () => delete document.documentElement.dataset.dragging);
document.addEventListener("drop", (event) => {
  event.preventDefault();
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
window.addEventListener("pagehide", (event) => {
  if (event.persisted) return; // it may come back
  for (const { token } of pictures) if (token) fetch(`pictures/${token}`, { method: "DELETE", keepalive: true });
});
setInterval(keep, 300000); // milliseconds: sooner than the server throws away what nobody uses
draw();
