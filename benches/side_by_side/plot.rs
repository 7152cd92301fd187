//! The proxies' CPU per transaction as a picture: bars by the ways clients send statements and their number.

use serde_json::{Map, Value};

/// Of the figures, and as people and the picture know them.
const PROXIES: [(&str, &str, &str); 4] = [
    ("pgward", "pgward", "#2166ac"),
    ("pgbouncer", "PgBouncer", "#e08214"),
    ("haproxy", "HAProxy", "#9aa5b1"),
    ("relay", "bare relay", "#cbd2d9"),
];

const WIDTH: f64 = 760.0;
const LEFT: f64 = 48.0;
const RIGHT: f64 = 16.0;
const HEAD: f64 = 74.0;
const PANEL: f64 = 214.0;
/// Of a panel, above its bars and below them.
const ABOVE: f64 = 44.0;
const BELOW: f64 = 30.0;
/// Between bars, and between groups of them.
const GAP: f64 = 3.0;
const GROUP_GAP: f64 = 28.0;
const CAPTION_LINE: f64 = 15.0;
const CAPTION_WIDTH: usize = 112;

/// None where the proxies were not measured in front of a mocked server.
pub fn svg(figures: &Map<String, Value>) -> Option<String> {
    let lines = figures.get("mocked")?.as_array()?;
    let modes = distinct(lines, |line| line["mode"].as_str().map(str::to_owned));
    let clients = distinct(lines, |line| line["clients"].as_u64());
    let scale = Scale::of(lines.iter().filter_map(|line| line["cpu_us_per_transaction"].as_f64()));
    let mut caption =
        vec!["pgbench's select-only transaction, in front of a server that costs next to nothing".to_owned()];
    caption.extend(wrapped(figures.get("machine").and_then(Value::as_str).unwrap_or_default()));
    let bottom = HEAD + PANEL * modes.len() as f64;
    let height = bottom + CAPTION_LINE * (caption.len() + 1) as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif\" font-size=\"13\" \
         fill=\"#1f2933\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let title = "Proxy CPU per transaction, in microseconds: less is better";
    svg += &text(LEFT, 28.0, "start", "font-size=\"17\" font-weight=\"600\"", title);
    svg += &legend();
    for (mode, top) in modes.iter().zip((0_u8..).map(|at| HEAD + PANEL * f64::from(at))) {
        let value = |proxy: &str, clients: u64| {
            let line = lines
                .iter()
                .find(|line| line["mode"] == mode.as_str() && line["clients"] == clients && line["target"] == proxy);
            line.and_then(|line| line["cpu_us_per_transaction"].as_f64())
        };
        svg += &text(LEFT, top + 18.0, "start", "font-size=\"14\" font-weight=\"600\"", described(mode));
        svg += &panel(top, &scale, &clients, &value);
    }
    for (line, y) in caption.iter().zip((1_u8..).map(|at| bottom + CAPTION_LINE * f64::from(at))) {
        svg += &text(LEFT, y, "start", "font-size=\"11\" fill=\"#52606d\"", line);
    }
    Some(svg + "</svg>\n")
}

fn described(mode: &str) -> &str {
    match mode {
        "simple" => "simple queries",
        "extended" => "extended protocol, parsed each time",
        "prepared" => "extended protocol, parsed once",
        other => other,
    }
}

fn distinct<T: PartialEq>(lines: &[Value], of: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    let mut found = Vec::new();
    for one in lines.iter().filter_map(of) {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}

/// Round numbers from nothing to the greatest value.
struct Scale {
    step: f64,
    top: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let greatest = values.fold(1.0, f64::max);
        let steps = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
        let step = steps.into_iter().find(|step| greatest / step <= 6.0).unwrap_or(greatest / 5.0);
        Self { step, top: (greatest / step).ceil() * step }
    }

    fn y(&self, panel: f64, value: f64) -> f64 {
        let (top, bottom) = (panel + ABOVE, panel + PANEL - BELOW);
        bottom - (bottom - top) * value / self.top
    }
}

fn panel(top: f64, scale: &Scale, clients: &[u64], value: &dyn Fn(&str, u64) -> Option<f64>) -> String {
    let mut svg = String::new();
    let (right, ground) = (WIDTH - RIGHT, scale.y(top, 0.0));
    let mut at = 0.0;
    while at <= scale.top {
        let (y, colour) = (scale.y(top, at), if at == 0.0 { "#7b8794" } else { "#e4e7eb" });
        svg += &format!("<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"{colour}\"/>\n");
        svg += &text(LEFT - 8.0, y + 4.0, "end", "font-size=\"12\" fill=\"#52606d\"", &at.to_string());
        at += scale.step;
    }
    let group = (right - LEFT) / clients.len() as f64;
    let width = (group - GROUP_GAP) / PROXIES.len() as f64;
    for (&clients, number) in clients.iter().zip(0_u32..) {
        let left = LEFT + group * f64::from(number);
        let label = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
        svg += &text(left + group / 2.0, ground + 19.0, "middle", "", &label);
        for ((proxy, _, colour), number) in PROXIES.iter().zip(0_u8..) {
            let Some(value) = value(proxy, clients) else { continue };
            let (x, y) = (left + GROUP_GAP / 2.0 + width * f64::from(number), scale.y(top, value));
            let (bar, height) = (width - GAP, ground - y);
            svg += &format!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{bar:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>\n"
            );
            // Lines behind it do not cross it.
            let halo = "stroke=\"#ffffff\" stroke-width=\"3\" paint-order=\"stroke\"";
            svg += &text(x + bar / 2.0, y - 4.0, "middle", halo, &format!("{value:.1}"));
        }
    }
    svg
}

fn legend() -> String {
    let mut svg = String::new();
    for ((_, name, colour), number) in PROXIES.iter().zip(0_u8..) {
        let x = LEFT + 120.0 * f64::from(number);
        svg += &format!("<rect x=\"{x}\" y=\"44\" width=\"14\" height=\"14\" fill=\"{colour}\"/>\n");
        svg += &text(x + 20.0, 56.0, "start", "", name);
    }
    svg
}

fn text(x: f64, y: f64, anchor: &str, more: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{text}</text>\n")
}

/// Lines that are not too long, of parts that stay together.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in text.split("; ") {
        match lines.last_mut() {
            Some(line) if line.len() + part.len() < CAPTION_WIDTH => *line += &format!("; {part}"),
            _ => lines.push(part.to_owned()),
        }
    }
    lines
}
