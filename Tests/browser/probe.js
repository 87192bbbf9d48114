"use strict";
// Runs inside the page of `attend map --html`, does what a reader would, and writes what it saw into the page.
(() => {
  const lines = [];
  const check = (name, holds, seen) => lines.push(`${holds ? "PASS" : "FAIL"} ${name}${holds ? "" : `: ${seen}`}`);
  const all = selector => [...document.querySelectorAll(selector)];
  const one = selector => document.querySelector(selector);
  const signature = () => all("#picture .cell").map(cell => cell.getAttribute("fill-opacity")).join() + all("#picture .edge").map(edge => edge.getAttribute("d") + edge.getAttribute("stroke-opacity")).join();
  const choose = (id, value) => {
    const select = document.getElementById(id);
    select.value = value;
    select.dispatchEvent(new Event("change"));
  };
  try {
    const data = JSON.parse(one("#data").textContent);
    const first = data.sentences[0];
    check("every cell is there", all("#picture .cell").length === first.rows.length * first.columns.length, all("#picture .cell").length);
    check("as many heads at a glance as there are, and their mean", all("#heads button").length === first.layers[0].length + 1, all("#heads button").length);

    const seen = new Set([signature()]);
    first.layers[0].forEach((_, head) => { choose("head", head); seen.add(signature()); });
    check("every head is another picture", seen.size === first.layers[0].length + 1, seen.size);

    check("the page opens with the word that it was made with", one("#readout").textContent.startsWith("it looks at"), one("#readout").textContent);
    all("#picture .token.picked")[0].dispatchEvent(new MouseEvent("click"));
    choose("head", 2);
    const it = first.rows.indexOf("it"), because = first.columns.indexOf("because");
    const cell = one(`#picture .cell[data-q="${it}"][data-k="${because}"]`);
    check("head 2: it looks at because", Number(cell.getAttribute("fill-opacity")) > .95, cell.getAttribute("fill-opacity"));
    check("the head that is picked is marked", one("#heads [aria-pressed=true]").textContent === "2", one("#heads [aria-pressed=true]")?.textContent);

    cell.dispatchEvent(new PointerEvent("pointermove", { clientX: 100, clientY: 200 }));
    const expected = `it → because: ${first.layers[0][2][it][because].toFixed(3)}`;
    check("pointing at a cell tells its number", !one("#tip").hidden && one("#tip").textContent === expected, one("#tip").textContent);
    const box = one("#tip").getBoundingClientRect();
    check("the hint lies inside of the window", box.left >= 0 && box.right <= innerWidth && box.top >= 0, JSON.stringify(box));
    cell.dispatchEvent(new PointerEvent("pointerleave"));
    check("the hint goes away", one("#tip").hidden, "still there");

    all("#heads button")[6].click();
    check("a head can be picked by its small picture", one("#head").value === "5", one("#head").value);

    all("#picture .token")[it].dispatchEvent(new MouseEvent("click"));
    check("picking a word tells where it looks", one("#readout").textContent.startsWith("it looks at because"), one("#readout").textContent);

    one("[data-view=lines]").click();
    check("lines of the picked word only", all("#picture .edge").length > 0 && all("#picture .edge").every(edge => Number(edge.dataset.q) === it), all("#picture .edge").length);
    const numbers = all("#picture text.soft[text-anchor=end]").slice(1).map(node => Number(node.textContent));
    const sum = numbers.reduce((a, b) => a + b, 0);
    check("its weights sum to 1", numbers.length === first.columns.length && Math.abs(sum - 1) < .01, `${numbers.length} sum to ${sum}`);
    all("#picture .token")[it].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
    check("the keyboard lets it go", new Set(all("#picture .edge").map(edge => edge.dataset.q)).size > 5, one("#readout").textContent);

    const before = signature();
    choose("sentence", 1);
    check("another sentence is another picture", signature() !== before && all("#picture .token").length === data.sentences[1].rows.length, all("#picture .token").length);
    check("the address keeps the place", location.hash.includes("sentence=1") && location.hash.includes("head=5") && location.hash.includes("view=lines"), location.hash);

    location.hash = "#sentence=2&head=-1&view=map";
    dispatchEvent(new Event("hashchange"));
    check("a place without a word is restored", all("#picture .token").length === data.sentences[2].rows.length && one("#readout").textContent.startsWith("Point at"), one("#readout").textContent);
    location.hash = "#sentence=99&head=x&view=none&token=500";
    dispatchEvent(new Event("hashchange"));
    check("a place that is not there changes nothing", one("#sentence").value === "2" && all("#picture .cell").length > 0, one("#sentence").value);

    const paper = () => getComputedStyle(document.body).backgroundColor;
    const light = paper();
    one("#theme").click();
    check("light and dark", paper() !== light, paper());
    one("#theme").click();

    for (const view of ["map", "lines"]) {
      one(`[data-view=${view}]`).click();
      check(`nothing is wider than the window, ${view}`, document.documentElement.scrollWidth <= innerWidth, `${document.documentElement.scrollWidth} > ${innerWidth}`);
    }
    check("nothing is loaded from elsewhere", performance.getEntriesByType("resource").length === 0, performance.getEntriesByType("resource").map(e => e.name));
  } catch (error) {
    lines.push(`FAIL ${error.stack}`);
  }
  const report = document.createElement("pre");
  report.id = "probe";
  report.textContent = "\n" + lines.join("\n") + "\nEND";
  document.body.append(report);
})();
