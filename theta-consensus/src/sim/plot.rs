//! Lines in a picture, as SVG text. Equal input gives equal bytes.

use std::fmt::Write;

/// A picture with one line for each series.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// Below it.
    pub across: String,
    /// At its left.
    pub upwards: String,
    /// Name and points of each line.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;
/// Told apart by those who see no red or no green, too.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"];
const TICKS: u32 = 5;

impl Plot {
    /// The picture. Both axes begin at zero.
    pub fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|(_, points)| points);
        let most = |values: &mut dyn Iterator<Item = f64>| round_up(values.fold(0.0, f64::max));
        let (width, height) = (most(&mut points().map(|(x, _)| *x)), most(&mut points().map(|(_, y)| *y)));
        let x = |value: f64| LEFT + value / width * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - value / height * (HEIGHT - TOP - BOTTOM);
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = self.draw(&mut out, (width, height), &x, &y);
        out
    }

    fn draw(
        &self,
        out: &mut String,
        (width, height): (f64, f64),
        x: &dyn Fn(f64) -> f64,
        y: &dyn Fn(f64) -> f64,
    ) -> std::fmt::Result {
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
        )?;
        text(out, (LEFT, 20.0), "start", &self.title)?;
        text(out, (x(width / 2.0), HEIGHT - 10.0), "middle", &self.across)?;
        text(out, (8.0, TOP - 8.0), "start", &self.upwards)?;
        for tick in 0..=TICKS {
            let share = f64::from(tick) / f64::from(TICKS);
            let (at_x, at_y) = (x(width * share), y(height * share));
            let (left, right, base) = (x(0.0), x(width), y(0.0));
            writeln!(
                out,
                "<path d=\"M{left:.1} {at_y:.1}H{right:.1}\" stroke=\"#ddd\"/><path d=\"M{at_x:.1} {base:.1}v4\" \
                 stroke=\"#888\"/>"
            )?;
            text(out, (at_x, base + 18.0), "middle", &number(width * share))?;
            text(out, (left - 8.0, at_y + 4.0), "end", &number(height * share))?;
        }
        for (index, (name, points)) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let line: Vec<String> =
                points.iter().map(|(across, up)| format!("{:.1},{:.1}", x(*across), y(*up))).collect();
            writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                line.join(" ")
            )?;
            let row = TOP + 16.0 * index as f64 + 12.0;
            let at = WIDTH - RIGHT + 12.0;
            writeln!(
                out,
                "<path d=\"M{at:.1} {:.1}h16\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                row - 4.0
            )?;
            text(out, (at + 22.0, row), "start", name)?;
        }
        writeln!(out, "</svg>")
    }
}

fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) -> std::fmt::Result {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
}

fn number(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// The next number of 1, 2 or 5 and zeros.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|end| *end >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_stand_where_they_should() {
        let plot = Plot {
            title: "a < b".to_owned(),
            series: vec![("line".to_owned(), vec![(0.0, 0.0), (4.0, 1.5)])],
            ..Plot::default()
        };
        let svg = plot.svg();
        assert!(svg.contains("a &lt; b") && svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        // Axes end at 5 and 2.
        let line = svg.lines().find(|line| line.starts_with("<polyline")).expect("a line");
        assert!(line.contains("\"64.0,312.0 404.8,105.0\""), "{line}");
        assert_eq!([0.0, 0.3, 5.0, 5.1, 80.0, 1_000.0].map(round_up), [1.0, 0.5, 5.0, 10.0, 100.0, 1_000.0]);
    }
}
