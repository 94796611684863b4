const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const bytes = base64 => Uint8Array.from(atob(base64), c => c.charCodeAt(0));
const unpack = id => new Response(
  new Blob([bytes(document.getElementById(id).textContent)]).stream().pipeThrough(new DecompressionStream("deflate")));
const library = async id => import(URL.createObjectURL(new Blob([await unpack(id).text()], {type: "text/javascript"})));

// Tabs, with the keys of the ARIA pattern; an address with # opens what it names.
const tabs = all("nav.tabs a"), panels = tabs.map(tab => document.querySelector(tab.hash));
const show = chosen => tabs.forEach((tab, i) => {
  tab.ariaSelected = tab === chosen;
  tab.tabIndex = tab === chosen ? 0 : -1;
  panels[i].hidden = tab !== chosen;
  if (tab === chosen) draw(panels[i]);
});
const arrive = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const panel = target && target.closest("[role=tabpanel]");
  if (panel) show(tabs[panels.indexOf(panel)]);
  const details = target && target.closest("details");
  if (details) { details.open = true; target.scrollIntoView(); }
};
document.querySelector("nav.tabs").role = "tablist";
tabs.forEach((tab, i) => {
  tab.role = "tab";
  tab.setAttribute("aria-controls", panels[i].id);
  panels[i].role = "tabpanel";
  panels[i].setAttribute("aria-labelledby", tab.id);
  tab.addEventListener("click", event => { event.preventDefault(); history.replaceState(null, "", tab.hash); show(tab); });
  tab.addEventListener("keydown", event => {
    const to = {ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: -1, " ": i}[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = tabs.at(to % tabs.length);
    next.focus();
    next.click();
  });
});

// Charts, when they come into sight.
const specs = unpack("charts").json();
async function draw(within) {
  for (const figure of all("[data-chart]", within)) {
    if (figure.dataset.drawn || !figure.checkVisibility()) continue;
    figure.dataset.drawn = "yes";
    window.vegaEmbed || await library("vega");
    const {view} = await window.vegaEmbed(figure, (await specs)[figure.dataset.chart], {actions: false, renderer: "svg"});
    figure.dataset.drawn = view ? "done" : "";
  }
}
all("details").forEach(details => details.addEventListener("toggle", () => draw(details)));
show(tabs[0]);
arrive();
addEventListener("hashchange", arrive);

// Tables.
const {default: DataTable} = await library("datatables");
const plain = {paging: false, info: false, autoWidth: false, order: [], language: {search: "Search methods"}};
for (const element of all("table.board")) {
  const section = element.closest("section"), boxes = all(".access input", section);
  const board = new DataTable(element, {...plain, orderFixed: {pre: [[0, "asc"]]}, columnDefs: [
    {targets: 0, visible: false}, {targets: 1, searchable: true},
    {targets: "_all", searchable: false, orderSequence: ["asc", "desc"]}]});
  const rows = () => board.rows({search: "applied"}).nodes().toArray();
  board.search.fixed("access", (_, data, index) => {
    const row = board.row(index).node();
    return row.matches(".pinned") || boxes.every(box => !box.checked || row.dataset.access.split(" ").includes(box.value));
  });
  boxes.forEach(box => box.addEventListener("change", () => board.draw()));
  const files = all("a[data-cut]", section).map(link =>
    ({link, start: link.href.split(",")[0].split(";")[0], text: new TextDecoder().decode(bytes(link.href.split(",")[1]))}));
  board.on("draw", () => {
    for (const head of all("th[aria-sort]", board.table().header()))  // DataTables tells the direction of the pinned column
      head.ariaSort = head.matches(".dt-ordering-desc") ? "descending" : "ascending";
    const shown = new Set(rows().map(row => row.dataset.method));
    for (const {link, start, text} of files) {
      let at = 0;
      const kept = JSON.parse(link.dataset.cut).map(([methods, length]) => {
        const piece = text.slice(at, at += length);
        return !methods || methods.split(" ").some(method => shown.has(method)) ? piece : "";
      });
      link.href = `${start};charset=utf-8,${encodeURIComponent(kept.join(""))}`;
    }
    section.querySelector(".shown").textContent = `${shown.size} rows are shown`;
  });
  section.querySelector(".access").hidden = false;
}
for (const details of all("details.every")) details.addEventListener("toggle", async () => {
  const table = details.querySelector("table");
  new DataTable(table, {data: await unpack(details.dataset.rows).json(), pageLength: 25, order: [], autoWidth: false,
    rowGroup: {dataSrc: 0}, orderFixed: {pre: []}, columnDefs: [{targets: 0, visible: false}],
    language: {search: "Search family, metric or method"}});
}, {once: true});
document.body.dataset.ready = "yes";
