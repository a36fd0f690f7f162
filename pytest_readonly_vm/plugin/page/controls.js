// Owns what mouse, touch and keyboard do to the timeline: pan, zoom, choose.

class Controls {
  // `choose` is told of what was chosen, null for nothing; `hover` of what the mouse is on and where.
  constructor(timeline, {choose, hover}) {
    this.timeline = timeline;
    this.choose = choose;
    const {box, canvas} = timeline, overview = timeline.overview.canvas;
    this.#drag(canvas, {
      start: (event) => ({view: {...timeline.view}, x: event.offsetX}),
      move: (event, {view, x}) => {
        const by = (x - event.offsetX) / timeline.scale;
        timeline.show(view.from + by, view.to + by);
      },
      click: (event) => this.choose(timeline.at(event.offsetX, event.offsetY)),
    });
    const time = (event) => (event.offsetX - timeline.gutter) / (timeline.width - timeline.gutter) * timeline.run.end;
    this.#drag(overview, {
      start: time,
      move: (event, from) => timeline.show(Math.min(from, time(event)), Math.max(from, time(event))),
      click: (event) => timeline.pan(time(event) - (timeline.view.from + timeline.view.to) / 2),
    });
    canvas.addEventListener("pointermove", (event) =>
      hover(event.buttons ? null : timeline.at(event.offsetX, event.offsetY), event));
    canvas.addEventListener("pointerleave", (event) => hover(null, event));
    canvas.addEventListener("dblclick", (event) => this.enlarge(timeline.at(event.offsetX, event.offsetY)));
    box.addEventListener("wheel", (event) => this.#wheel(event), {passive: false});
    box.addEventListener("scroll", () => timeline.redraw());
    box.addEventListener("keydown", (event) => {
      const act = event.ctrlKey || event.metaKey || event.altKey ? null : this.#keys[event.key];
      if (act) event.preventDefault();
      act?.call(this);
    });
  }

  #drag(element, {start, move, click}) {
    let begin = null, at = 0, moved = false;
    element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      element.setPointerCapture(event.pointerId);
      [begin, at, moved] = [start(event), event.clientX, false];
    });
    element.addEventListener("pointermove", (event) => {
      moved ||= Math.abs(event.clientX - at) > 3;
      if (begin !== null && moved) move(event, begin);
    });
    element.addEventListener("pointerup", (event) => {
      if (begin !== null && !moved) click(event);
      begin = null;
    });
    element.addEventListener("pointercancel", () => (begin = null));
  }

  #wheel(event) {
    const {timeline} = this;
    if (event.ctrlKey || event.metaKey) {
      timeline.zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 150), timeline.time(event.offsetX));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      timeline.pan((event.deltaX || event.deltaY) / timeline.scale);
    } else return;
    event.preventDefault();
  }

  #keys = {
    ArrowLeft() { this.timeline.pan(-0.15 * (this.timeline.view.to - this.timeline.view.from)); },
    ArrowRight() { this.timeline.pan(0.15 * (this.timeline.view.to - this.timeline.view.from)); },
    "+"() { this.timeline.zoom(2 / 3); },
    "="() { this.timeline.zoom(2 / 3); },
    "-"() { this.timeline.zoom(3 / 2); },
    Home() { this.timeline.show(0, this.timeline.run.end); },
    ArrowUp() { this.#row(-1); },
    ArrowDown() { this.#row(1); },
    ","() { this.#step(-1); },
    "."() { this.#step(1); },
    Enter() { this.enlarge(this.timeline.selected); },
    f() { this.#failure(); },
    Escape() { this.choose(null); },
  };

  // Go to the row above or below, to what is there at the time of what is chosen now.
  #row(by) {
    const {timeline} = this, {selected, rows} = timeline;
    const now = rows.findIndex((row) => selected && (selected.lane ? row.lanes?.includes(selected.lane)
      : !row.lanes && row.worker.name === selected.test.worker));
    const row = rows[now < 0 ? 0 : Math.min(Math.max(now + by, 0), rows.length - 1)];
    if (!row) return;
    const [from, to] = selected ? span(selected) : [timeline.view.from, timeline.view.to];
    const middle = (from + to) / 2;
    const near = (list, begin, end) => list.reduce((best, one) => {
      const distance = Math.max(one[begin] - middle, middle - one[end], 0);
      return best && best.distance <= distance ? best : {one, distance};
    }, null)?.one;
    const found = row.lanes ? {lane: near(row.lanes, "began", "ended")}
      : {test: near(row.worker.tests.filter((test) => timeline.tests.has(test)), "from", "to")};
    if (found.lane || found.test) this.#go(found);
  }

  // Go to the entry, or the test, before or after what is chosen.
  #step(by) {
    const {timeline} = this, {selected} = timeline;
    if (!selected) return this.#row(0);
    if (selected.test) {
      const {tests} = timeline.run.workers.find((worker) => worker.name === selected.test.worker);
      const shown = tests.filter((test) => timeline.tests.has(test));
      const next = shown[shown.indexOf(selected.test) + by];
      return next && this.#go({test: next});
    }
    const {lane} = selected;
    let index = (selected.index ?? (by > 0 ? -1 : lane.length)) + by;
    while (index >= 0 && index < lane.length && timeline.hidden.has(lane.kind(index))) index += by;
    if (index >= 0 && index < lane.length) this.#go({lane, index});
  }

  #failure() {
    const {timeline} = this, {selected, run} = timeline;
    const bad = run.tests.filter((test) => BAD.has(test.outcome) && timeline.tests.has(test));
    const next = bad[bad.indexOf(selected?.test) + 1] ?? bad[0];
    if (next) this.reveal({test: next});
  }

  // Choose something; bring it into view when it is not there.
  #go(one) {
    const {timeline} = this, [from, to] = span(one), {view} = timeline;
    if (to < view.from || from > view.to) timeline.pan((from + to) / 2 - (view.from + view.to) / 2);
    this.#scroll(one);
    this.choose(one);
  }

  #scroll({test, lane}) {
    const {box, rows} = this.timeline;
    const row = rows.find((one) => (lane ? one.lanes?.includes(lane) : !one.lanes && one.worker.name === test.worker));
    if (!row) return;
    const above = row.y - RULER, below = row.y + row.height - box.clientHeight;
    if (box.scrollTop > above) box.scrollTop = above; else if (box.scrollTop < below) box.scrollTop = below;
  }

  enlarge(one) {
    if (!one) return;
    const [from, to] = span(one), rim = Math.max((to - from) * 0.15, SHORTEST / 2);
    this.timeline.show(from - rim, to + rim);
  }

  // Choose something, zoom to it, and have it on the screen.
  reveal(one) {
    this.enlarge(one);
    this.#scroll(one);
    this.timeline.box.focus({preventScroll: true});
    this.timeline.box.scrollIntoView({block: "nearest"});
    this.choose(one);
  }
}
