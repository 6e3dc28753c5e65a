// The OpenAPI document, readable. Requests that are tried go out as the page's own session.

// Swagger's own dark look, where the look that was chosen, else the system's, is dark.
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => {
  const { theme } = document.documentElement.dataset;
  document.documentElement.classList.toggle("dark-mode", theme ? theme === "dark" : dark.matches);
};
dark.addEventListener("change", paint);
paint();

const place = document.getElementById("docs");

globalThis.SwaggerUIBundle({
  url: place.dataset.schema,
  domNode: place,
  deepLinking: true,
  presets: [globalThis.SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  requestInterceptor: (request) => {
    request.headers["X-CSRFToken"] = place.dataset.csrf;
    return request;
  },
});
