/**
 * Two inline SVG charts without scripts: bars with intervals, and lines over steps. Coordinates are in CSS pixels of the
 * viewBox; the SVG scales with the page. Colours are Okabe and Ito's, which stay apart for colour-blind readers.
 */
import { escapeHtml, short } from "./html.ts"

export const palette: ReadonlyArray<string> = [
  "#0072b2",
  "#e69f00",
  "#009e73",
  "#cc79a7",
  "#d55e00",
  "#56b4e9",
  "#8a8a00"
]
const colour = (index: number): string => palette[index % palette.length] ?? "#0072b2"
const px = (value: number): string => String(Math.round(value * 100) / 100)
const text = (x: number, y: number, content: string, extra = "") =>
  `<text x="${px(x)}" y="${px(y)}"${extra}>${escapeHtml(content)}</text>`

export interface Bar {
  readonly label: string
  readonly value: number
  readonly low: number
  readonly high: number
  readonly note: string
}

/** Vertical bars on [0, 1], one group per title, with interval whiskers. */
export const barChart = (
  title: string,
  groups: ReadonlyArray<{ readonly name: string; readonly bars: ReadonlyArray<Bar> }>
): string => {
  const barWidth = 34
  const gap = 28
  const left = 40
  const height = 220
  const top = 16
  const y = (value: number) => top + (height - top) * (1 - value)
  let x = left + gap / 2
  const parts: Array<string> = []
  for (const tick of [0, 0.25, 0.5, 0.75, 1])
    parts.push(
      `<line class="grid" x1="${left}" x2="100%" y1="${px(y(tick))}" y2="${px(y(tick))}"/>`,
      text(left - 6, y(tick) + 4, String(tick), ' text-anchor="end"')
    )
  for (const group of groups) {
    const start = x
    group.bars.forEach((bar, index) => {
      const middle = x + barWidth / 2 - 2
      parts.push(
        `<g><title>${escapeHtml(`${group.name}, ${bar.label}: ${bar.note}`)}</title>`,
        `<rect x="${px(x)}" y="${px(y(bar.value))}" width="${barWidth - 4}" height="${px(Math.max(0, height - y(bar.value)))}" fill="${colour(index)}"/>`,
        `<path class="whisker" d="M${px(middle)} ${px(y(bar.low))}V${px(y(bar.high))}M${px(middle - 5)} ${px(y(bar.low))}h10M${px(middle - 5)} ${px(y(bar.high))}h10"/></g>`
      )
      x += barWidth
    })
    parts.push(text((start + x) / 2 - 2, height + 18, group.name, ' text-anchor="middle"'))
    // A narrow group still needs room for its name.
    x = Math.max(x, start + 84) + gap
  }
  return figure(title, x, height + 28, parts, groups[0]?.bars.map((bar) => bar.label) ?? [])
}

export interface Series {
  readonly name: string
  /** Steps rise; a null value is a hole in the line. */
  readonly points: ReadonlyArray<readonly [step: number, value: number | null]>
}

/** At most `limit` points: means of neighbours, so that a long run stays a small file. */
export const thin = (points: Series["points"], limit: number): Series["points"] => {
  if (points.length <= limit) return points
  const size = Math.ceil(points.length / limit)
  return Array.from({ length: Math.ceil(points.length / size) }, (_, index) => {
    const part = points.slice(index * size, (index + 1) * size)
    const values = part.flatMap(([, value]) => (value === null ? [] : [value]))
    const mean = values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length
    return [part[part.length >> 1]?.[0] ?? 0, mean] as const
  })
}

const path = (points: Series["points"], x: (step: number) => number, y: (value: number) => number): string => {
  let pen = "M"
  let d = ""
  for (const [step, value] of points) {
    if (value === null) pen = "M"
    else {
      d += `${pen}${px(x(step))} ${px(y(value))}`
      pen = "L"
    }
  }
  return d
}

/** Lines over steps with a common scale. Empty when no series has a number. */
export const lineChart = (title: string, all: ReadonlyArray<Series>): string => {
  const series = all.map((one) => ({ name: one.name, points: thin(one.points, 300) }))
  const values = series.flatMap((one) => one.points.flatMap(([, value]) => (value === null ? [] : [value])))
  if (values.length === 0) return ""
  const steps = series.flatMap((one) => one.points.map(([step]) => step))
  const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))]
  const pad = high === low ? Math.abs(high) * 0.1 + 1e-9 : (high - low) * 0.06
  const [first, last] = [steps.reduce((a, b) => Math.min(a, b)), steps.reduce((a, b) => Math.max(a, b))]
  const [left, right, top, bottom] = [56, 348, 10, 150]
  const x = (step: number) => left + ((right - left) * (step - first)) / Math.max(1, last - first)
  const y = (value: number) => bottom - ((bottom - top) * (value - low + pad)) / (high - low + 2 * pad)
  const parts: Array<string> = []
  for (const tick of high === low ? [low] : [low, (low + high) / 2, high])
    parts.push(
      `<line class="grid" x1="${left}" x2="${right}" y1="${px(y(tick))}" y2="${px(y(tick))}"/>`,
      text(left - 5, y(tick) + 4, short(tick), ' text-anchor="end"')
    )
  parts.push(text(left, bottom + 16, String(first)), text(right, bottom + 16, String(last), ' text-anchor="end"'))
  series.forEach((one, index) => {
    const numbers = one.points.filter(([, value]) => value !== null)
    const [only] = numbers
    parts.push(
      numbers.length === 1 && only !== undefined
        ? `<circle cx="${px(x(only[0]))}" cy="${px(y(only[1] ?? 0))}" r="3" fill="${colour(index)}"/>`
        : `<path class="line" stroke="${colour(index)}" d="${path(one.points, x, y)}"/>`
    )
  })
  return figure(
    title,
    356,
    bottom + 24,
    parts,
    series.map((one) => one.name)
  )
}

const figure = (
  title: string,
  width: number,
  height: number,
  parts: ReadonlyArray<string>,
  legend: ReadonlyArray<string>
): string =>
  `<figure><figcaption>${escapeHtml(title)}</figcaption>` +
  `<svg viewBox="0 0 ${px(width)} ${px(height)}" style="max-width:${px(width)}px" role="img" aria-label="${escapeHtml(title)}">${parts.join("\n")}</svg>` +
  `<p class="legend">${legend.map((name, index) => `<span><i style="background:${colour(index)}"></i>${escapeHtml(name)}</span>`).join(" ")}</p></figure>`
