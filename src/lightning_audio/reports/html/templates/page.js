"use strict";
(() => {
  const root = document.documentElement;
  const key = root.dataset.key;
  const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* a browser that keeps nothing */ } };

  // Light or dark: as the system has it, until somebody chooses.
  const theme = document.getElementById("theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
  if (stored("theme")) root.dataset.theme = stored("theme");
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; store("theme", root.dataset.theme); name(); });
  name();

  // What scrolls sideways can be scrolled by the keyboard, and is named by the heading above it.
  const headings = [...document.querySelectorAll("h1, h2, h3, summary")];
  const above = (box) => headings.filter((one) => one.compareDocumentPosition(box) & Node.DOCUMENT_POSITION_FOLLOWING).pop();
  const reach = () => {
    for (const box of document.querySelectorAll(".scroll, pre")) {
      if (box.scrollWidth > box.clientWidth) {
        box.tabIndex = 0;
        box.setAttribute("role", "region");
        box.setAttribute("aria-label", `${above(box).textContent}, scrolls sideways`);
      } else box.removeAttribute("tabindex");
    }
  };
  reach();
  addEventListener("resize", reach);

  // Which clips are shown: those with a tag that a button asks for, and with the words of the search.
  const clips = [...document.querySelectorAll(".clip")];
  if (!clips.length) return;
  const shown = document.getElementById("shown");
  const search = document.getElementById("search");
  let wanted = "";
  const update = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const clip of clips) {
      const text = clip.dataset.text;
      const fits = (!wanted || JSON.parse(clip.dataset.tags).includes(wanted)) && words.every((word) => text.includes(word));
      clip.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${clips.length} clips` + (wanted ? `: ${wanted}` : "");
  };
  for (const clip of clips) clip.dataset.text = [...clip.querySelectorAll("h3, p")].map((part) => part.textContent).join(" ").toLowerCase();
  search.addEventListener("input", update);
  for (const button of document.querySelectorAll("[data-filter]")) {
    button.addEventListener("click", () => {
      wanted = button.dataset.filter;
      update();
      document.getElementById("clips").scrollIntoView();
      document.getElementById("clips").focus({ preventScroll: true });
    });
  }
  update();

  // Marks are kept in this browser, and leave it as a CSV file.
  const marks = JSON.parse(stored(`marks ${key}`) || "{}");
  const count = () => {
    const counts = {};
    for (const mark of Object.values(marks)) counts[mark] = (counts[mark] || 0) + 1;
    const told = Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([mark, number]) => `${mark} ${number}`);
    document.getElementById("marked").textContent = told.length ? `Marked: ${told.join(", ")}` : "";
  };
  count();
  for (const choice of document.querySelectorAll(".mark")) {
    const clip = choice.closest(".clip");
    const id = `${clip.dataset.split}/${clip.dataset.id}`;
    choice.value = marks[id] || "";
    choice.addEventListener("change", () => {
      if (choice.value) marks[id] = choice.value; else delete marks[id];
      store(`marks ${key}`, JSON.stringify(marks));
      count();
    });
  }
  document.getElementById("export").addEventListener("click", () => {
    const cell = (text) => `"${String(text).replaceAll('"', '""')}"`;
    const rows = clips.map((clip) => [clip, marks[`${clip.dataset.split}/${clip.dataset.id}`]]).filter(([, mark]) => mark)
      .map(([clip, mark]) => [clip.dataset.id, clip.dataset.split, clip.dataset.reference, clip.dataset.hypothesis, mark].map(cell).join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([["id,split,reference,hypothesis,mark", ...rows, ""].join("\n")], { type: "text/csv" }));
    link.download = "marks.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
})();
