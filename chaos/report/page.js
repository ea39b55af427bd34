// Reads out what was at the moment that the pointer is at.
const data = JSON.parse(document.getElementById("data").textContent);
const box = document.getElementById("timeline"), svg = box.querySelector("svg");
const readout = document.getElementById("readout");
const idle = readout.textContent + " Point at a moment to read it out.";
readout.textContent = idle;
readout.classList.add("live");
const cursor = document.createElement("div");
cursor.id = "cursor";
cursor.hidden = true;
box.append(cursor);

const clock = s => Math.floor(s / 60) + ":" + (s % 60).toFixed(1).padStart(4, "0");
const during = (list, at) => (list || []).filter(m => m.from <= at && at < m.until).map(m => m.say);

svg.addEventListener("pointermove", e => {
	const r = svg.getBoundingClientRect();
	const x = (e.clientX - r.left) * data.width / r.width;
	if (x < data.left || x > data.right || !data.length) return leave();
	const at = (x - data.left) / (data.right - data.left) * data.length;
	const i = Math.min(Math.floor(at / data.bucket), (data.events || []).length - 1);
	cursor.hidden = false;
	cursor.style.left = e.clientX - r.left + "px";
	const leads = during(data.leads, at);
	readout.textContent = [clock(at), leads.join(", ") || "nobody leads", data.events[i],
		...during(data.cuts, at), ...during(data.faults, at)].join(" · ");
});
svg.addEventListener("pointerleave", leave);

function leave() {
	cursor.hidden = true;
	readout.textContent = idle;
}
