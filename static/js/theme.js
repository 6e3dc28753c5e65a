// Before the first paint: the look that was chosen here, else the system's (then nothing is set).
(() => {
  try {
    const theme = localStorage.getItem("headrace.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // storage is forbidden: the system decides
  }
})();
