//! A line chart as SVG: axes from zero, a few ticks, a legend.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 124.0;
/// From the lower edge to the first row of the legend, which has two columns.
const LEGEND: f64 = 62.0;
/// Told apart by most eyes (Okabe and Ito, 2008).
const COLOURS: [&str; 5] = ["#999999", "#e69f00", "#56b4e9", "#009e73", "#d55e00"];
/// Points of a line that a reader can see.
const POINTS_MAX: usize = 400;

/// What a chart shows.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// Where the vertical axis ends.
    pub(crate) y_max: f64,
    pub(crate) lines: Vec<Line<'a>>,
}

/// One line, from left to right.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Plot<'_> {
    pub(crate) fn svg(&self) -> String {
        let ends = self.lines.iter().filter_map(|line| line.points.last());
        let end = ends.map(|(x, _)| *x).fold(0.0, f64::max);
        let x_step = step(end);
        let x_max = x_step * (end / x_step).ceil().max(1.0);
        let y_step = step(self.y_max);
        let at_x = |x: f64| LEFT + (WIDTH - LEFT - RIGHT) * x / x_max;
        let at_y = |y: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / self.y_max;
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#333\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{}</text>\n",
            self.title
        );
        let mut add = |text: String| {
            svg.push_str(&text);
            svg.push('\n');
        };
        for tick in ticks(self.y_max, y_step) {
            let y = at_y(tick);
            add(format!(
                "<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
                LEFT - 8.0,
                y + 4.0
            ));
        }
        for tick in ticks(x_max, x_step) {
            let x = at_x(tick);
            add(format!(
                "<path d=\"M{x:.1} {bottom}v5\" stroke=\"#333\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{tick}</text>",
                bottom + 20.0
            ));
        }
        add(format!(
            "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#333\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(18 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            f64::midpoint(LEFT, right),
            bottom + 42.0,
            self.x,
            f64::midpoint(TOP, bottom),
            self.y
        ));
        for (index, (line, colour)) in self.lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
            let mut path = String::new();
            for (i, (x, y)) in thinned(&line.points).enumerate() {
                let letter = if i == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{letter}{:.1} {:.1}", at_x(x), at_y(y));
            }
            let x = LEFT + (right - LEFT) / 2.0 * (index % 2) as f64;
            let y = HEIGHT - LEGEND + 20.0 * (index / 2) as f64;
            add(format!(
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
                 <path d=\"M{x:.1} {y:.1}h24\" stroke=\"{colour}\" stroke-width=\"3\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x + 32.0,
                y + 4.0,
                line.name
            ));
        }
        svg + "</svg>\n"
    }
}

/// A round number that goes into `most` four to ten times.
fn step(most: f64) -> f64 {
    let rough = f64::max(most, 1e-9) / 8.0;
    let magnitude = 10f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * magnitude);
    steps.into_iter().find(|step| *step >= rough).unwrap_or(10.0 * magnitude)
}

fn ticks(most: f64, step: f64) -> impl Iterator<Item = f64> {
    (0..).map(move |i| f64::from(i) * step).take_while(move |tick| *tick <= most + step * 1e-6)
}

/// As many points as are seen, the last among them.
fn thinned(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> {
    let every = points.len().div_ceil(POINTS_MAX).max(1);
    let last = points.len().saturating_sub(1);
    points.iter().enumerate().filter(move |(i, _)| i % every == 0 || *i == last).map(|(_, p)| *p)
}
