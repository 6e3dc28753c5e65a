// Before the first paint: the look that the user chose stands in the page; else what was chosen here; else the system's
// (then nothing is set).
(() => {
  try {
    if (document.documentElement.dataset.theme) return;
    const theme = localStorage.getItem("headrace.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // storage is forbidden: the system decides
  }
})();
