// Answers of one reader to a blind review: kept in the browser's storage, saved as a JSON file.
"use strict";
(() => {
  const review = JSON.parse(document.getElementById("review").textContent);
  const total = review.pictures.length, storageKey = `dim_jax review ${review.digest}`;
  const questions = ["verdict", "quality", "class"], largest = 12;
  const element = (id) => document.getElementById(id);
  const radios = [...document.querySelectorAll("#form input[type=radio]")];
  const buttons = [...element("fields").children];
  let state = restored(), zoom = 1, shift = [0, 0];

  function empty() {
    return { reader: "", place: 0, answers: {} };
  }

  // What is stored may be of another version of this page, or damaged.
  function restored() {
    const state = empty();
    try {
      const stored = JSON.parse(localStorage.getItem(storageKey)) ?? {};
      if (typeof stored.reader === "string") state.reader = stored.reader;
      if (Number.isInteger(stored.place) && stored.place >= 0 && stored.place < total) state.place = stored.place;
      for (let place = 0; place < total; place++) {
        const answer = stored.answers?.[place];
        if (!answer) continue;
        const valid = {};
        for (const name of questions)
          if (radios.some((radio) => radio.name === name && radio.value === answer[name])) valid[name] = answer[name];
        if (typeof answer.note === "string") valid.note = answer.note;
        state.answers[place] = valid;
      }
    } catch {
      // as if nothing were stored
    }
    return state;
  }

  function keep() {
    try {
      localStorage.setItem(storageKey, JSON.stringify(state));
      element("unsaved").hidden = true;
    } catch {
      element("unsaved").hidden = false;
    }
  }

  const answer = (place) => state.answers[place] ?? {};
  const numAnswers = (place) => questions.filter((name) => answer(place)[name] !== undefined).length;
  const isComplete = (place) => numAnswers(place) === questions.length;
  const numComplete = () => buttons.filter((_, place) => isComplete(place)).length;

  function showProgress() {
    const done = numComplete();
    element("progress").value = done;
    element("progress-text").textContent = `${done} of ${total} fields answered in full`;
    buttons.forEach((button, place) => {
      button.className = isComplete(place) ? "done" : numAnswers(place) ? "part" : "";
      button.setAttribute("aria-label", `Field ${place + 1}${isComplete(place) ? ", answered" : ""}`);
      if (place === state.place) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }

  function show(place) {
    state.place = Math.min(Math.max(place, 0), total - 1);
    element("position").textContent = `Field ${state.place + 1} of ${total}`;
    element("field").src = `data:image/jpeg;base64,${review.pictures[state.place]}`;
    element("field").alt = `Field ${state.place + 1}`;
    for (const radio of radios) radio.checked = answer(state.place)[radio.name] === radio.value;
    element("note").value = answer(state.place).note ?? "";
    element("previous").disabled = state.place === 0;
    element("next").disabled = state.place === total - 1;
    if (document.activeElement?.type === "radio") document.activeElement.blur();
    setZoom(1);
    showProgress();
    keep();
  }

  function record(name, value) {
    state.answers[state.place] = { ...answer(state.place), [name]: value };
    if (numComplete() === total) element("message").textContent = "All fields are answered. Save the answers and send the file.";
    showProgress();
    keep();
  }

  function choose(radio) {
    radio.checked = true;
    record(radio.name, radio.value);
  }

  function nextOpen() {
    for (let step = 1; step <= total; step++) {
      const place = (state.place + step) % total;
      if (!isComplete(place)) return show(place);
    }
    element("message").textContent = "All fields are answered. Save the answers and send the file.";
  }

  // Zoom about a point, given from the centre of the viewer in units of its width.
  function setZoom(value, [x, y] = [0, 0]) {
    const scale = Math.min(Math.max(value, 1), largest);
    shift = [x - ((x - shift[0]) * scale) / zoom, y - ((y - shift[1]) * scale) / zoom];
    zoom = scale;
    move(0, 0);
    element("whole").textContent = `${Math.round(100 * zoom)} %`;
    element("viewer").toggleAttribute("data-zoomed", zoom > 1);
  }

  function move(x, y) {
    const most = (zoom - 1) / 2;
    shift = [shift[0] + x, shift[1] + y].map((part) => Math.min(Math.max(part, -most), most));
    element("field").style.transform = `translate(${100 * shift[0]}%, ${100 * shift[1]}%) scale(${zoom})`;
  }

  function point(event) {
    const box = element("viewer").getBoundingClientRect();
    return [(event.clientX - box.x) / box.width - 0.5, (event.clientY - box.y) / box.height - 0.5];
  }

  function save() {
    const reader = state.reader.trim();
    if (!reader) {
      element("message").textContent = "Fill in your name or initials first.";
      element("reader").focus();
      return;
    }
    const answers = [];
    for (let place = 0; place < total; place++) {
      const { verdict = null, quality = null, class: label = null, note = "" } = answer(place);
      if (numAnswers(place) === 0 && !note) continue;
      answers.push({
        number: place + 1,
        verdict,
        quality: quality === null ? null : Number(quality),
        class: label === null ? null : label === "none" ? "" : review.classes[Number(label)],
        note,
      });
    }
    const record = { format: review.format, review: review.digest, reader, answers };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(record, null, 1) + "\n"], { type: "application/json" }));
    link.download = `review_${reader.replace(/[^A-Za-z0-9-]+/g, "_")}_${review.digest.slice(0, 8)}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    const open = total - numComplete();
    element("message").textContent = open
      ? `Saved ${link.download}. ${open} of ${total} fields are not answered in full; go on and save again.`
      : `Saved ${link.download}. Send this file back.`;
  }

  for (const radio of radios) radio.addEventListener("change", () => record(radio.name, radio.value));
  element("form").addEventListener("submit", (event) => event.preventDefault());
  element("note").addEventListener("input", (event) => record("note", event.target.value));
  element("reader").addEventListener("input", (event) => {
    state.reader = event.target.value;
    keep();
  });
  element("previous").addEventListener("click", () => show(state.place - 1));
  element("next").addEventListener("click", () => show(state.place + 1));
  element("unanswered").addEventListener("click", nextOpen);
  element("save").addEventListener("click", save);
  element("larger").addEventListener("click", () => setZoom(zoom * 1.5));
  element("smaller").addEventListener("click", () => setZoom(zoom / 1.5));
  element("whole").addEventListener("click", () => setZoom(1));
  element("clear").addEventListener("click", () => {
    if (!confirm("Delete all answers to this review in this browser?")) return;
    state = empty();
    element("reader").value = element("message").textContent = "";
    show(0);
  });
  buttons.forEach((button, place) => button.addEventListener("click", () => show(place)));

  const viewer = element("viewer");
  viewer.addEventListener("dblclick", (event) => setZoom(zoom > 1 ? 1 : 3, point(event)));
  viewer.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      setZoom(zoom * (event.deltaY < 0 ? 1.2 : 1 / 1.2), point(event));
    },
    { passive: false },
  );
  let held = null;
  viewer.addEventListener("pointerdown", (event) => {
    if (zoom === 1) return;
    held = point(event);
    viewer.setPointerCapture(event.pointerId);
  });
  viewer.addEventListener("pointermove", (event) => {
    if (!held) return;
    const at = point(event);
    move(at[0] - held[0], at[1] - held[1]);
    held = at;
  });
  for (const name of ["pointerup", "pointercancel"]) viewer.addEventListener(name, () => (held = null));

  const directions = { arrowleft: [1, 0], arrowright: [-1, 0], arrowup: [0, 1], arrowdown: [0, -1] };
  const actions = {
    arrowleft: () => show(state.place - 1),
    arrowright: () => show(state.place + 1),
    "+": () => setZoom(zoom * 1.5),
    "=": () => setZoom(zoom * 1.5),
    "-": () => setZoom(zoom / 1.5),
    0: () => setZoom(1),
    n: () => element("note").focus(),
    enter: nextOpen,
  };
  document.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase(), target = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.matches("textarea, input[type=text]")) {
      if (key === "escape") target.blur();
      return;
    }
    if (key === "enter" && target.matches("button, summary")) return;
    const radio = radios.find((radio) => radio.dataset.key === key);
    if (radio) choose(radio);
    else if (event.shiftKey && directions[key]) move(...directions[key].map((part) => part / 8));
    else if (Object.hasOwn(actions, key)) actions[key]();
    else return;
    event.preventDefault();
  });

  element("reader").value = state.reader;
  show(state.place);
})();
