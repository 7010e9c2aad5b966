//! Draws lines over time, or over percentiles, as SVG.
//!
//! The text and the lines have the colours of a light page. `page.css` replaces them by their values on a dark page, so
//! both have the same SVG.

use std::cell::Cell;

use anyhow::Context;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

/// Colours by Okabe and Ito, which colour-blind people can tell apart, without yellow and a lighter purple.
const PALETTE: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xB3, 0x58, 0x9A),
    RGBColor(0xE6, 0x9F, 0x00),
    RGBColor(0x56, 0xB4, 0xE9),
];
/// The same as far as the eye can see; `page.css` draws them dashed.
const DASHED: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xB3),
    RGBColor(0xD5, 0x5E, 0x01),
    RGBColor(0x00, 0x9E, 0x74),
    RGBColor(0xB3, 0x58, 0x9B),
    RGBColor(0xE6, 0x9F, 0x01),
    RGBColor(0x56, 0xB4, 0xEA),
];
/// The sum of other lines.
pub(crate) const SUM: RGBColor = RGBColor(0x33, 0x33, 0x33);
/// A bound or a target; dashed.
pub(crate) const BOUND: RGBColor = RGBColor(0x77, 0x77, 0x77);
const TEXT: RGBColor = RGBColor(0x44, 0x44, 0x44);
const AXIS: RGBColor = RGBColor(0x88, 0x88, 0x88);
const MESH: RGBColor = RGBColor(0xDD, 0xDD, 0xDD);
const SHADE: RGBColor = RGBColor(0xF1, 0xF1, 0xF1);

/// Size in units of the drawing. Points have whole coordinates, so there are more units than pixels.
const SIZE: (u32, u32) = (1_200, 560);
/// Size of the text on a narrow page; `page.css` makes it smaller on a wide one.
const TEXT_SIZE: u32 = 34;
/// Maximum number of points of a line, so that a page of a long run stays small. A wide page has about 650 pixels.
const MAX_POINTS: usize = 600;

/// The colour of line `index`. They repeat after twelve.
pub(crate) fn color(index: usize) -> RGBColor {
    let all = PALETTE.len() + DASHED.len();
    PALETTE.iter().chain(&DASHED).nth(index % all).copied().unwrap_or(SUM)
}

/// The colour as in the SVG.
pub(crate) fn hex(color: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2)
}

/// A line of a plot.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub name: String,
    pub color: RGBColor,
    /// Times or percentiles, and values; `None` interrupts the line.
    pub points: Vec<(f64, Option<f64>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    /// Values of 0 and less are not drawn.
    Logarithmic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Horizontal {
    /// Seconds from the start of the run.
    Seconds,
    /// Nines of a percentile: 2 is 99 %, 3 is 99.9 %.
    Nines,
}

impl Horizontal {
    fn title(self) -> &'static str {
        match self {
            Self::Seconds => "seconds from the start",
            Self::Nines => "percent of the events",
        }
    }

    fn label(self, value: f64) -> String {
        match self {
            Self::Seconds => thousands(value),
            Self::Nines => {
                let percent = (1.0 - 10_f64.powf(-value)) * 100.0;
                format!("{} %", (percent * 1e4).round() / 1e4)
            }
        }
    }
}

/// A plot with a vertical axis for all of its lines.
#[derive(Debug, Clone)]
pub(crate) struct Plot {
    pub title: &'static str,
    pub horizontal: Horizontal,
    /// The vertical axis, with its unit.
    pub vertical: &'static str,
    pub scale: Scale,
    pub lines: Vec<Line>,
    /// The ranges that were not measured.
    pub shaded: Vec<(f64, f64)>,
}

impl Plot {
    /// The plot as an SVG element.
    pub(crate) fn svg(&self) -> anyhow::Result<String> {
        let lines: Vec<Line> = self.lines.iter().map(|line| self.drawable(line)).collect();
        let points = || lines.iter().flat_map(|line| &line.points).filter_map(|(x, y)| Some((*x, (*y)?)));
        let right = points().map(|(x, _)| x).fold(1.0, f64::max);
        let highest = points().map(|(_, y)| y).fold(0.0, f64::max);
        match self.scale {
            Scale::Linear => {
                let top = if highest > 0.0 { highest * 1.08 } else { 1.0 };
                self.draw(&lines, right, 0.0..top, (0.0, top), 6)
            }
            Scale::Logarithmic => {
                let lowest = points().map(|(_, y)| y).fold(highest, f64::min);
                let (bottom, top) = decades(lowest, highest);
                let number = (top / bottom).log10().round() as usize;
                // One or two decades have a line for each digit.
                let labels = if number <= 2 { number * 10 } else { number + 1 };
                self.draw(&lines, right, (bottom..top).log_scale(), (bottom, top), labels)
            }
        }
        .with_context(|| format!("drawing the plot \"{}\"", self.title))
    }

    /// The line with as many points as can be seen, and without those that its scale does not have.
    fn drawable(&self, line: &Line) -> Line {
        let is_drawable = |value: f64| value.is_finite() && (value > 0.0 || self.scale == Scale::Linear);
        let points: Vec<_> = line.points.iter().map(|(x, y)| (*x, y.filter(|y| is_drawable(*y)))).collect();
        Line { points: thinned(&points), ..line.clone() }
    }

    fn draw<Y>(
        &self,
        lines: &[Line],
        right: f64,
        range: Y,
        (bottom, top): (f64, f64),
        labels: usize,
    ) -> anyhow::Result<String>
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let mut text = String::new();
        // A logarithmic axis has each power of ten twice.
        let before = Cell::new(f64::NAN);
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            let mut chart = ChartBuilder::on(&area)
                .margin_top(24)
                .margin_right(68)
                .x_label_area_size(96)
                .y_label_area_size(184)
                .build_cartesian_2d(0.0..right, range)?;
            let shades = self.shaded.iter().map(|(from, to)| [(*from, bottom), (to.min(right), top)]);
            chart.draw_series(shades.map(|corners| Rectangle::new(corners, SHADE.filled())))?;
            let font = ("sans-serif", TEXT_SIZE).into_font().color(&TEXT);
            chart
                .configure_mesh()
                .disable_x_mesh()
                .light_line_style(TRANSPARENT)
                .bold_line_style(MESH.stroke_width(2))
                .axis_style(AXIS.stroke_width(2))
                .label_style(font.clone())
                .axis_desc_style(font)
                .x_labels(7)
                .y_labels(labels)
                .x_label_formatter(&|value| self.horizontal.label(*value))
                .y_label_formatter(&|value| {
                    let is_repeated = before.replace(*value).total_cmp(value).is_eq();
                    if is_repeated { String::new() } else { self.label(*value, top) }
                })
                .x_desc(self.horizontal.title())
                .y_desc(self.vertical)
                .draw()?;
            for line in lines {
                let style = line.color.stroke_width(4);
                for part in line.points.split(|(_, y)| y.is_none()) {
                    let part: Vec<(f64, f64)> = part.iter().filter_map(|(x, y)| Some((*x, (*y)?))).collect();
                    match part.as_slice() {
                        // A line of one point would not be seen.
                        [point] => chart.draw_series([Circle::new(*point, 6, line.color.filled())])?,
                        _ => chart.draw_series(LineSeries::new(part, style))?,
                    };
                }
            }
            area.present()?;
        }
        Ok(text)
    }
}

impl Plot {
    /// The label of a value of the vertical axis. Of the digits on a logarithmic one only 1, 2 and 5 have room.
    fn label(&self, value: f64, top: f64) -> String {
        let digit = value / 10_f64.powf((value.log10() + 1e-9).floor());
        let has_room = [1.0, 2.0, 5.0].iter().any(|shown| (digit - shown).abs() < 1e-6);
        if self.scale == Scale::Linear || has_room { number(value, top) } else { String::new() }
    }
}

/// The powers of ten around a range.
fn decades(lowest: f64, highest: f64) -> (f64, f64) {
    if highest <= 0.0 {
        return (1.0, 10.0);
    }
    let bottom = 10_f64.powf(lowest.log10().floor());
    let top = 10_f64.powf(highest.log10().ceil());
    (bottom, top.max(bottom * 10.0))
}

/// At most `MAX_POINTS` points: of each part of the line, the lowest and the highest one.
fn thinned(points: &[(f64, Option<f64>)]) -> Vec<(f64, Option<f64>)> {
    if points.len() <= MAX_POINTS {
        return points.to_vec();
    }
    let size = points.len().div_ceil(MAX_POINTS / 2);
    let mut kept = Vec::with_capacity(MAX_POINTS);
    for part in points.chunks(size) {
        let value = |index: &usize| part.get(*index).and_then(|(_, y)| *y);
        let seen: Vec<usize> = (0..part.len()).filter(|index| value(index).is_some()).collect();
        let order =
            |left: &usize, right: &usize| value(left).unwrap_or(f64::NAN).total_cmp(&value(right).unwrap_or(f64::NAN));
        let lowest = seen.iter().copied().min_by(order).unwrap_or(0);
        let highest = seen.iter().copied().max_by(order).unwrap_or(0);
        kept.extend(part.get(lowest.min(highest)));
        if lowest != highest {
            kept.extend(part.get(lowest.max(highest)));
        }
    }
    kept
}

/// A number for an axis up to `top`, of at most six characters up to ten million.
fn number(value: f64, top: f64) -> String {
    if top >= 100_000.0 && value >= 1_000.0 {
        format!("{}k", thousands(value / 1_000.0))
    } else if value == 0.0 {
        "0".to_owned()
    } else if top < 0.1 || value.abs() < 0.01 {
        format!("{value:.3}")
    } else if top < 1.0 || value.abs() < 0.1 {
        format!("{value:.2}")
    } else if (value - value.round()).abs() > 1e-9 {
        format!("{value:.1}")
    } else {
        thousands(value)
    }
}

/// A whole number with a comma after each three digits.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 && digits != "0" { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(scale: Scale, points: Vec<(f64, Option<f64>)>) -> Plot {
        let lines = vec![Line { name: "line".to_owned(), color: color(0), points }];
        Plot { title: "title", horizontal: Horizontal::Seconds, vertical: "ms", scale, lines, shaded: Vec::new() }
    }

    fn count(plot: &Plot, element: &str) -> usize {
        let svg = plot.svg().unwrap();
        svg.lines().filter(|line| line.starts_with(element) && line.contains(&hex(color(0)))).count()
    }

    #[test]
    fn a_gap_interrupts_a_line_and_a_single_point_is_seen() {
        let points = vec![(1.0, Some(1.0)), (2.0, Some(5.0)), (3.0, None), (4.0, Some(2.0)), (5.0, Some(0.0))];
        assert_eq!(count(&plot(Scale::Linear, points.clone()), "<polyline"), 2);
        let logarithmic = plot(Scale::Logarithmic, points);
        assert_eq!((count(&logarithmic, "<polyline"), count(&logarithmic, "<circle")), (1, 1), "0 has no logarithm");
    }

    #[test]
    fn a_plot_without_values_has_its_axes() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            let svg = plot(scale, vec![(1.0, None), (2.0, Some(f64::NAN))]).svg().unwrap();
            assert!(svg.contains("seconds from the start") && svg.trim_end().ends_with("</svg>"), "{svg}");
        }
    }

    #[test]
    fn a_long_line_keeps_its_extremes() {
        let mut points: Vec<(f64, Option<f64>)> = (0..10_000).map(|n| (f64::from(n), Some(10.0))).collect();
        points[1_234].1 = Some(99.0);
        points[1_235].1 = Some(1.0);
        let kept = thinned(&points);
        assert!(kept.len() <= MAX_POINTS, "{}", kept.len());
        assert!(kept.contains(&points[1_234]) && kept.contains(&points[1_235]));
        assert!(kept.is_sorted_by(|left, right| left.0 < right.0));
    }

    #[test]
    fn numbers_are_short() {
        let shown = [(0.0, 5.0), (0.25, 0.8), (1.5, 5.0), (25_000.0, 30_000.0), (250_000.0, 300_000.0)];
        assert_eq!(shown.map(|(value, top)| number(value, top)), ["0", "0.25", "1.5", "25,000", "250k"]);
        assert_eq!(thousands(-1_234_567.0), "-1,234,567");
        assert_eq!(decades(0.3, 250.0), (0.1, 1_000.0));
        let (linear, logarithmic) = (plot(Scale::Linear, Vec::new()), plot(Scale::Logarithmic, Vec::new()));
        assert_eq!([20.0, 30.0, 50.0].map(|value| logarithmic.label(value, 100.0)), ["20", "", "50"]);
        assert_eq!(linear.label(30.0, 100.0), "30");
        assert_eq!(Horizontal::Nines.label(3.0), "99.9 %");
    }

    #[test]
    fn the_style_knows_every_color() {
        let style = include_str!("page.css");
        for color in PALETTE.iter().chain(&DASHED).chain(&[SUM, BOUND, TEXT, AXIS, MESH, SHADE]) {
            assert!(style.contains(&hex(*color)), "{} has no colour on a dark page", hex(*color));
        }
    }
}
