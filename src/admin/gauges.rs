//! Gauges that are made anew for each scrape, so that what is gone shows nothing any more.

use std::collections::BTreeMap;
use std::fmt::Write;

/// A gauge's name, and what it says.
pub(super) type Family = (&'static str, &'static str);

#[derive(Default)]
pub(super) struct Gauges(Vec<(Family, BTreeMap<String, f64>)>);

impl Gauges {
    /// Values of the same labels add up: a server that was promoted has pools for reading and for writing.
    pub fn add(&mut self, family: Family, labels: &[(&str, &str)], value: f64) {
        let at = self.0.iter().position(|(known, _)| *known == family).unwrap_or_else(|| {
            self.0.push((family, BTreeMap::new()));
            self.0.len() - 1
        });
        let Some((_, lines)) = self.0.get_mut(at) else { return };
        let labels: Vec<String> = labels.iter().map(|(name, of)| format!("{name}=\"{}\"", escaped(of))).collect();
        *lines.entry(labels.join(",")).or_insert(0.0) += value;
    }

    /// As Prometheus reads it ("Exposition formats", text format 0.0.4).
    pub fn text(&self) -> String {
        let mut out = String::new();
        for ((name, help), lines) in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
            for (labels, value) in lines {
                let _ = writeln!(out, "{name}{{{labels}}} {value}");
            }
        }
        out
    }
}

/// A label's value. A database may be called anything.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_stands_together_and_no_line_stands_twice() {
        let mut gauges = Gauges::default();
        gauges.add(("a", "One."), &[("x", "1")], 2.0);
        gauges.add(("b", "Two."), &[], f64::NAN);
        gauges.add(("a", "One."), &[("x", "1")], 1.0);
        gauges.add(("a", "One."), &[("x", "q\"\\\n"), ("y", "z")], 0.5);
        let expected = "# HELP a One.\n# TYPE a gauge\na{x=\"1\"} 3\na{x=\"q\\\"\\\\\\n\",y=\"z\"} 0.5\n\
                        # HELP b Two.\n# TYPE b gauge\nb{} NaN\n";
        assert_eq!(gauges.text(), expected);
    }
}
