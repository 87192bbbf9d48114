"use strict";
// The same for a page of a whole model: a layer is picked too.
(() => {
  const lines = [];
  const check = (name, holds, seen) => lines.push(`${holds ? "PASS" : "FAIL"} ${name}${holds ? "" : `: ${seen}`}`);
  const all = selector => [...document.querySelectorAll(selector)];
  const one = selector => document.querySelector(selector);
  const choose = (id, value) => {
    const select = document.getElementById(id);
    select.value = value;
    select.dispatchEvent(new Event("change"));
  };
  const signature = () => all("#picture .cell").map(cell => cell.getAttribute("fill-opacity")).join();
  try {
    const first = JSON.parse(one("#data").textContent).sentences[0];
    check("the layers can be picked", !one("#layers").hidden && all("#layer option").length === first.layers.length, all("#layer option").length);
    check("the page opens with the layer that it was made with", one("#layer").value === "0", one("#layer").value);
    check("the tokens stand at rows and columns", first.rows.every((word, i) => all("#picture .token")[i].textContent === word), all("#picture .token").map(node => node.textContent).join());
    const seen = new Set();
    first.layers.forEach((heads, layer) => heads.forEach((_, head) => { choose("layer", layer); choose("head", head); seen.add(signature()); }));
    check("every layer and head is another picture", seen.size === first.layers.length * first.layers[0].length, seen.size);
    choose("layer", 1); choose("head", 2);
    const weight = first.layers[1][2][1][3];
    one(`#picture .cell[data-q="1"][data-k="3"]`).dispatchEvent(new PointerEvent("pointermove", { clientX: 100, clientY: 200 }));
    check("a cell tells the weight of its layer and head", one("#tip").textContent === `${first.rows[1]} → ${first.columns[3]}: ${weight.toFixed(3)}`, one("#tip").textContent);
    check("the readout names layer and head", one("#readout").textContent.includes("layer 1, head 2"), one("#readout").textContent);
    check("the address keeps the layer", location.hash.includes("layer=1"), location.hash);
    location.hash = "#sentence=1&layer=0&head=1";
    dispatchEvent(new Event("hashchange"));
    check("a place is restored", one("#layer").value === "0" && one("#head").value === "1" && one("#sentence").value === "1", one("#layer").value);
    check("nothing is wider than the window", document.documentElement.scrollWidth <= innerWidth, document.documentElement.scrollWidth);
  } catch (error) {
    lines.push(`FAIL ${error.stack}`);
  }
  const report = document.createElement("pre");
  report.id = "probe";
  report.textContent = "\n" + lines.join("\n") + "\nEND";
  document.body.append(report);
})();
