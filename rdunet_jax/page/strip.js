
/* The strip of all slices: a bar for the Dice of each (or its predicted area, without truth), and two tracks that show
   which slices hold truth and prediction. Each kind of error has its own symbol, so that nothing depends on colour. */

function drawStrip() {
  const [left, right, top, base] = [28, 4, 7, 74];
  const step = (Math.max($$("bars").clientWidth, 200) - left - right) / patient.depth;
  const bar = Math.max(step * 0.8, 0.8);
  const highest = patient.dice ? 1 : Math.max(...patient.area, 0.01);
  const drawn = [];
  for (const part of [0, 0.5, 1]) {
    const y = base - part * (base - top);
    drawn.push(shape("line", { x1: left, x2: left + step * patient.depth, y1: y, y2: y }, "grid"));
    const label = shape("text", { x: left - 5, y: y + 4, "text-anchor": "end" });
    label.textContent = patient.dice ? String(part) : (part * highest).toFixed(highest < 10 ? 1 : 0);
    drawn.push(label);
  }
  for (let index = 0; index < patient.depth; index++) {
    const x = left + index * step;
    const middle = x + step / 2;
    const box = (y, height, name) => drawn.push(shape("rect", { x: x + (step - bar) / 2, y, width: bar, height }, name));
    const marked = patient.predicted[index] || patient.tumour?.[index];
    const value = patient.dice ? (marked ? patient.dice[index] : 0) : patient.area[index] / highest;
    if (!marked) drawn.push(shape("circle", { cx: middle, cy: base - 3, r: Math.min(1.2, step / 3) }, "empty"));
    if (value > 0) box(base - value * (base - top), value * (base - top), "bar");
    if (patient.falsePositive?.[index]) drawn.push(shape("path", { d: `M${middle - 3} ${base - 10}l6 6m-6 0l6 -6` }, "mark"));
    if (patient.falseNegative?.[index]) drawn.push(shape("circle", { cx: middle, cy: base - 7, r: 3.2 }, "mark"));
    if (patient.tumour?.[index]) box(base + 11, 7, "truth");
    if (patient.dice && patient.predicted[index]) box(base + 24, 4, "prediction");
  }
  if (patient.dice) {
    for (const [letter, y] of [["T", base + 18], ["P", base + 30]]) {
      const label = shape("text", { x: left - 5, y, "text-anchor": "end" });
      label.textContent = letter;
      drawn.push(label);
    }
  }
  const cursor = shape("rect", { y: 1, width: Math.max(step, 2), height: 106 }, "cursor");
  Object.assign(cursor.dataset, { left, step });
  $$("bars").replaceChildren(...drawn, cursor);
  $$("bars").onclick = (event) => {
    const x = event.clientX - $$("bars").getBoundingClientRect().left - left;
    goTo(Math.floor(x / step));
  };
  describeStrip();
  describe();
}

function describeStrip() {
  const count = (flags) => flags.filter(Boolean).length;
  $$("strip-title").textContent = patient.dice ? "Dice per slice" : "Predicted area per slice, cm²";
  const key = patient.dice
    ? [
        `T truth: ${count(patient.tumour)} slices`,
        `P prediction: ${count(patient.predicted)} slices`,
        `✕ false positive: ${count(patient.falsePositive)}`,
        `○ missed: ${count(patient.falseNegative)}`,
        "· neither",
      ]
    : [`${count(patient.predicted)} slices with prediction`, "· without"];
  $$("strip-key").replaceChildren(...key.map((text) => element("span", text)));
  $$("bars").setAttribute("aria-label", `${$$("strip-title").textContent} of ${patient.depth} slices. ${key.join("; ")}`);
}
