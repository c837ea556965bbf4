"use strict";
/* Values of a catalogue as text. */

const sexagesimal = (value, hours) => {
  const sign = value < 0 ? "−" : hours ? "" : "+", per = hours ? 100 : 10;
  let rest = Math.round(Math.abs(hours ? value / 15 : value) * 3600 * per);
  const seconds = (rest % (60 * per)) / per;
  rest = Math.floor(rest / (60 * per));
  const pad = (v) => String(v).padStart(2, "0");
  const text = seconds.toFixed(hours ? 2 : 1).padStart(hours ? 5 : 4, "0");
  return `${sign}${pad(Math.floor(rest / 60))}:${pad(rest % 60)}:${text}`;
};

/* Value with as many digits as its error (or, without one, five) tells. */
function withError(value, error) {
  if (value === null) return "–";
  if (error === null || error === undefined || !(error > 0)) return short(value);
  const digits = Math.min(Math.max(1 - Math.floor(Math.log10(error)), 0), 6);
  return `${value.toFixed(digits)} ± ${error.toFixed(digits)}`.replace("-", "−");
}

function cell(field, layer, row) {
  const value = layer.values[field.key]?.[row];
  if (value === undefined || value === null || value === "") return "–";
  if (field.kind === "ra") return sexagesimal(value, true);
  if (field.kind === "dec") return sexagesimal(value, false);
  if (field.kind === "text") return value;
  if (field.error) return withError(value, layer.values[field.error]?.[row]);
  return short(value);
}
