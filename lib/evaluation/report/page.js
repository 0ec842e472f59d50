"use strict";
// Search, filters and order of the paragraphs, and players that show a moment. Without this script
// all paragraphs are listed, best first, and a moment opens its file.
(() => {
  const list = document.getElementById("examples");
  if (list) {
    const controls = document.getElementById("controls");
    const state = document.getElementById("shown");
    const more = document.getElementById("more");
    const first = 10, step = 40;
    const field = (name) => document.getElementById(name);
    const items = Array.from(list.querySelectorAll("details.example"), (element, place) => {
      const texts = element.querySelectorAll(".name, .query");
      return {
        element,
        place,
        data: element.dataset,
        text: Array.from(texts, (each) => each.textContent).join("\n").toLowerCase(),
      };
    });
    let most = first;

    const value = (item, key) => (key in item.data ? parseFloat(item.data[key]) : NaN);
    const fits = {
      all: () => true,
      first: (item) => value(item, "rank") === 1,
      wrong: (item) => value(item, "rank") > 1,
      far: (item) => value(item, "rank") > 10,
      hit: (item) => value(item, "hits") > 0,
      miss: (item) => value(item, "hits") === 0,
    };

    function update() {
      const words = field("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      const kind = field("kind").value;
      const fit = fits[field("filter").value];
      const [key, direction] = field("sort").value.split(" ");
      const found = items.filter(
        (item) =>
          (kind === "all" || item.data.kind === kind) &&
          fit(item) &&
          words.every((word) => item.text.includes(word)),
      );
      if (key !== "page") {
        const sign = direction === "down" ? -1 : 1;
        found.sort((a, b) => sign * (value(a, key) - value(b, key)) || a.place - b.place);
      }
      for (const item of items) item.element.hidden = true;
      for (const item of found) list.append(item.element);
      for (const item of found.slice(0, most)) item.element.hidden = false;
      const visible = Math.min(most, found.length);
      state.textContent = `${visible} of ${found.length} that fit, ${items.length} on this page`;
      more.hidden = found.length <= most;
    }

    function restart() {
      most = first;
      update();
    }

    for (const name of ["search", "kind", "filter", "sort"]) {
      field(name).addEventListener("input", restart);
    }
    more.addEventListener("click", () => {
      const before = most;
      most += step;
      update();
      const next = Array.from(list.children).filter((each) => !each.hidden)[before];
      if (next) next.querySelector("summary").focus();
    });
    controls.hidden = false;
    update();
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.play");
    const player = link && link.closest("details").querySelector("video");
    if (!player || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const [file, time] = link.href.split("#t=");
    const [start, end] = time.split(",").map(parseFloat);
    const begin = () => {
      player.currentTime = start;
      player.play().catch(() => {});
    };
    player.ontimeupdate = () => {
      if (end !== undefined && player.currentTime >= end) {
        player.pause();
        player.ontimeupdate = null;
      }
    };
    if (player.src !== file) player.src = file;
    if (player.readyState > 0) begin();
    else {
      player.addEventListener("loadedmetadata", begin, { once: true });
      player.load();
    }
    player.scrollIntoView({ block: "nearest" });
  });
})();
