/** The form of options: what for, size, format. It offers what the service can do. */

const element = (id) => document.getElementById(id);

/** Dispatches "change" when the person has chosen something. */
export class OptionsForm extends EventTarget {
  #form = element("options");
  #formats = []; // as in the capabilities
  #qualities = new Map(); // of each format, as last chosen

  constructor() {
    super();
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.#form.addEventListener("change", ({ target }) => {
      if (target.name === "scope") return;
      if (target.name === "scale" && target.value === "width") element("width").select();
      this.#checkWidth();
      this.#adapt();
      this.dispatchEvent(new Event("change"));
    });
    const [quality, shown] = [this.#quality, element("quality").querySelector("output")];
    quality.addEventListener("input", () => (shown.value = quality.value));
  }

  get #quality() {
    return this.#form.elements.quality;
  }

  /** Offer what the service can do; what cannot be chosen is not seen. */
  offer({ modes, formats }) {
    const isFirst = this.#formats.length === 0;
    this.#formats = formats;
    this.modes = modes;
    element("mode").hidden = modes.length < 2;
    if (isFirst) {
      const labels = formats.map(({ name }, index) => {
        const label = document.createElement("label");
        const input = Object.assign(document.createElement("input"), {
          type: "radio",
          name: "format",
          value: name,
        });
        input.checked = input.defaultChecked = index === 0;
        const text = Object.assign(document.createElement("span"), {
          textContent: name === "webp" ? "WebP" : name.toUpperCase(),
        });
        label.append(input, text);
        return label;
      });
      element("format")
        .querySelector("legend")
        .after(...labels);
    }
    this.#adapt();
  }

  /** What is chosen: { mode, format, ending, scale, width, quality, lossless }. */
  get options() {
    const { mode, scale, format, lossless } = this.#form.elements;
    const { quality, ending } = this.#formats.find(({ name }) => name === format.value);
    const isLossless = !quality || (lossless.checked && !element("lossless").hidden);
    const isWidth = scale.value === "width";
    return {
      mode: mode.value,
      format: format.value,
      ending,
      scale: isWidth ? null : Number(scale.value),
      width: isWidth ? element("width").valueAsNumber : null,
      quality: isLossless ? null : Number(this.#quality.value),
      lossless: Boolean(quality) && isLossless,
    };
  }

  set options({ mode, scale, width, format, quality, lossless }) {
    const { elements } = this.#form;
    elements.mode.value = mode;
    elements.scale.value = width ? "width" : scale;
    if (width) element("width").value = this.#width = width;
    elements.format.value = format;
    elements.lossless.checked = lossless;
    if (quality) this.#qualities.set(format, quality);
    this.#adapt(false);
  }

  /** Show the controls that have a meaning beside the others. */
  #adapt(isByPerson = true) {
    const { mode, scale, format, lossless } = this.#form.elements;
    const { scales } = this.modes.find(({ name }) => name === mode.value) ?? this.modes[0];
    for (const input of scale) {
      const isOffered = input.value === "width" || scales.includes(Number(input.value));
      input.closest("label").hidden = !isOffered;
      if (!isOffered && input.checked) scale.value = "3";
    }
    element("width").hidden = scale.value !== "width";
    const {
      quality,
      has_lossless: hasLossless,
      has_alpha: hasAlpha,
      name,
    } = this.#formats.find((each) => each.name === format.value);
    element("lossless").hidden = !quality || !hasLossless;
    element("quality").hidden = !quality || (hasLossless && lossless.checked);
    element("format-hint").hidden = hasAlpha;
    if (!quality) return;
    if (isByPerson && this.#format === name) this.#qualities.set(name, Number(this.#quality.value));
    this.#format = name;
    Object.assign(this.#quality, { min: quality.min, max: quality.max });
    this.#quality.value = this.#qualities.get(name) ?? quality.default;
    element("quality").querySelector("output").value = this.#quality.value;
  }

  /** What is no width becomes the last one that was: no other option must wait for it. */
  #checkWidth() {
    const input = element("width");
    if (input.checkValidity()) this.#width = input.value;
    else input.value = this.#width;
  }

  #width = element("width").value; // the last valid one
  #format = null; // the one that the quality belongs to
}
