// Owns the strip above the timeline: all tests of the run in small, and which span of it is in view.

const OVERVIEW = 30; // its height

class Overview {
  constructor(canvas) { this.canvas = canvas; }

  draw({ink, run, width, gutter, view, tests}) {
    const pen = this.canvas.getContext("2d"), scale = (width - gutter) / run.end;
    const each = OVERVIEW / Math.max(run.workers.length, 1);
    pen.clearRect(0, 0, width, OVERVIEW);
    run.workers.forEach((worker, number) => {
      for (const bad of [false, true]) for (const test of worker.tests) {
        if (BAD.has(test.outcome) !== bad) continue;
        pen.fillStyle = ink[test.outcome] || ink.skipped;
        pen.globalAlpha = tests.has(test) ? 1 : 0.15;
        const wide = Math.max((test.to - test.from) * scale, bad ? 2 : 0.5);
        pen.fillRect(gutter + test.from * scale, number * each + 1, wide, Math.max(each - 2, 1));
      }
    });
    pen.globalAlpha = 1;
    const from = gutter + view.from * scale, to = gutter + view.to * scale;
    pen.fillStyle = ink.veil;
    pen.fillRect(gutter, 0, from - gutter, OVERVIEW);
    pen.fillRect(to, 0, width - to, OVERVIEW);
    pen.strokeStyle = ink.focus;
    pen.lineWidth = 1.5;
    pen.strokeRect(Math.min(from, width - 4) + 1, 1, Math.max(to - from - 2, 3), OVERVIEW - 2);
  }
}

// Give a canvas this size in pixels of the page, and all the pixels that the screen has there.
function fit(canvas, width, height) {
  const scale = Math.max(devicePixelRatio, 1);
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.getContext("2d").setTransform(scale, 0, 0, scale, 0, 0);
}
