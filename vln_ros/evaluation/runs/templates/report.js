// One scrubber for an episode's video and for the robot on its map.
for (const player of document.querySelectorAll(".player")) {
  const video = player.querySelector("video"), bar = player.querySelector(".scrubber");
  if (!video) continue;
  const [button, moment, told] = bar.children, here = player.querySelector(".here");
  const frames = Number(video.dataset.frames), way = JSON.parse(player.dataset.way ?? "[]");
  const frameNow = () => Math.min(frames - 1, Math.floor((video.currentTime / video.duration) * frames + 1e-3));
  const show = (frame) => {
    moment.value = frame;
    told.value = `frame ${frame + 1} of ${frames}`;
    const at = way[frame];
    if (!here || !at) return;
    here.style.left = `${100 * at[0]}%`;
    here.style.top = `${100 * at[1]}%`;
    here.hidden = at.some((share) => share < 0 || share > 1); // where the map does not reach
  };
  const seek = (frame) => { video.currentTime = ((frame + 0.5) / frames) * video.duration; };
  const follow = () => {
    show(frameNow());
    if (!video.paused) requestAnimationFrame(follow);
  };
  video.addEventListener("loadedmetadata", () => {
    if (!frames) return;
    video.controls = false;
    bar.hidden = false;
    show(0);
    seek(0); // a browser that has loaded no more than the length shows nothing yet
  }, { once: true });
  if (video.readyState > 0) video.dispatchEvent(new Event("loadedmetadata"));
  video.addEventListener("play", () => { button.textContent = "Pause"; follow(); });
  for (const end of ["pause", "ended"]) video.addEventListener(end, () => { button.textContent = "Play"; });
  video.addEventListener("click", () => button.click());
  button.addEventListener("click", () => (video.paused ? video.play() : video.pause()));
  moment.addEventListener("input", () => {
    video.pause();
    show(Number(moment.value));
    seek(Number(moment.value));
  });
}

const body = document.querySelector("#all tbody");
document.querySelector("#filter")?.addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
document.querySelectorAll("#all th.sort").forEach((head) => head.addEventListener("click", () => {
  const column = head.cellIndex, sign = head.dataset.up ? -1 : 1;
  head.dataset.up = sign === 1 ? "1" : "";
  const key = (row) => { const t = row.cells[column].textContent.trim(), n = parseFloat(t);
    return Number.isNaN(n) ? t : n; };
  [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
    return sign * (typeof x === typeof y ? (x > y) - (x < y) : typeof x === "number" ? -1 : 1);
  }).forEach((row) => body.append(row));
}));
