
// Valleys as surfaces: drawn with straight lines and flat colours, turned by dragging or with the arrow keys.
const SHADES = ["#ffffd9", "#edf8b1", "#c7e9b4", "#7fcdbb", "#41b6c4", "#1d91c0", "#225ea8", "#253494", "#081d58"];
const { surfaces } = JSON.parse(document.getElementById("figures").textContent);
for (const canvas of document.querySelectorAll("canvas[data-surface]")) turnable(canvas, surfaces[canvas.dataset.surface]);

function turnable(canvas, { alphas, noise, heights }) {
  const top = Math.max(...heights.flat().map((value) => value ?? 0)) || 1;
  const said = canvas.nextElementSibling;
  const sign = (value) => String(value).replace("-", "\u2212");
  let turn = -0.6;
  let tilt = 0.6;
  let place = () => [0, 0];

  // x: alpha, y: the steps of the noise, z: the square root of the loss; each from -1 to 1, z half as high.
  const corner = (i, j) => [2 * (i / (alphas.length - 1 || 1)) - 1, 2 * (j / (noise.length - 1 || 1)) - 1];
  const point = (i, j) => [...corner(i, j), Math.sqrt((heights[i][j] ?? 0) / top) - 0.5];
  const depth = ([x, y]) => x * Math.sin(turn) + y * Math.cos(turn);

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth || 400, canvas.clientHeight || 300];
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const size = Math.min(width, height * 1.2) / 3.4;
    place = (p) => {
      const across = p[0] * Math.cos(turn) - p[1] * Math.sin(turn);
      return [width / 2 + size * across, height / 2 - size * (depth(p) * Math.sin(tilt) + p[2] * Math.cos(tilt) * 1.2)];
    };
    const line = (points, close) => {
      pen.beginPath();
      points.forEach((p, index) => pen[index ? "lineTo" : "moveTo"](...place(p)));
      if (close) pen.closePath();
    };
    pen.strokeStyle = "#9aa3ad";
    line([[-1, -1, -0.5], [1, -1, -0.5], [1, 1, -0.5], [-1, 1, -0.5]], true);
    pen.stroke();
    const cells = [];
    for (let i = 0; i + 1 < alphas.length; i++) {
      for (let j = 0; j + 1 < noise.length; j++) {
        const around = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
        const values = around.map(([a, b]) => heights[a][b]);
        if (values.includes(null)) continue; // a hole where there is no number
        const mean = values.reduce((sum, value) => sum + Math.sqrt(value / top), 0) / 4;
        const points = around.map(([a, b]) => point(a, b));
        cells.push({ points, mean, far: Math.max(...points.map(depth)) + Math.min(...points.map(depth)) });
      }
    }
    cells.sort((a, b) => b.far - a.far);
    pen.lineWidth = 0.6;
    for (const { points, mean } of cells) {
      line(points, true);
      pen.fillStyle = SHADES[Math.min(SHADES.length - 1, Math.floor(mean * SHADES.length))];
      pen.fill();
      pen.strokeStyle = "#5b6670";
      pen.stroke();
    }
    pen.fillStyle = "#1b1f24";
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.strokeStyle = "#ffffff";
    pen.lineWidth = 3;
    const write = (text, p) => ["strokeText", "fillText"].forEach((how) => pen[how](text, ...place(p)));
    write("init (\u03b1 = " + alphas[0] + ")", [-1.25, 0, -0.5]);
    write("trained (\u03b1 = " + alphas.at(-1) + ")", [1.25, 0, -0.5]);
    write("\u03c3 " + sign(noise[0]), [0, -1.25, -0.5]);
    write("\u03c3 " + sign(noise.at(-1)), [0, 1.25, -0.5]);
  }

  function say(event) {
    const box = canvas.getBoundingClientRect();
    let best = null;
    alphas.forEach((alpha, i) => noise.forEach((sigma, j) => {
      if (heights[i][j] === null) return;
      const [x, y] = place(point(i, j));
      const far = Math.hypot(x - event.clientX + box.left, y - event.clientY + box.top);
      if (!best || far < best.far) best = { far, text: `alpha ${alpha}, sigma ${sign(sigma)}: loss ${heights[i][j]} nats` };
    }));
    said.textContent = best && best.far < 25 ? best.text : "";
  }

  function move(right, up) {
    turn += right;
    tilt = Math.min(1.5, Math.max(0.05, tilt + up));
    draw();
  }
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) move(event.movementX / 120, event.movementY / 120);
    else say(event);
  });
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
    if (!step) return;
    event.preventDefault(); // the page would scroll
    move(...step);
  });
  window.addEventListener("resize", draw);
  draw();
}
