//! Gauges that are made anew for each scrape, so that what is gone shows nothing any more.

use std::fmt::Write;

/// A gauge's name, and what it says.
pub(super) type Family = (&'static str, &'static str);

#[derive(Default)]
pub(super) struct Gauges(Vec<(Family, String)>);

impl Gauges {
    pub fn set(&mut self, family: Family, labels: &[(&str, &str)], value: f64) {
        let at = self.0.iter().position(|(known, _)| *known == family).unwrap_or_else(|| {
            self.0.push((family, String::new()));
            self.0.len() - 1
        });
        let Some((_, lines)) = self.0.get_mut(at) else { return };
        let labels: Vec<String> = labels.iter().map(|(name, of)| format!("{name}=\"{}\"", escaped(of))).collect();
        let value = if value.is_nan() { "NaN".to_owned() } else { value.to_string() };
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "{}{{{}}} {value}", family.0, labels.join(","));
    }

    /// As Prometheus reads it ("Exposition formats", text format 0.0.4).
    pub fn text(&self) -> String {
        let one =
            |((name, help), lines): &(Family, String)| format!("# HELP {name} {help}\n# TYPE {name} gauge\n{lines}");
        self.0.iter().map(one).collect()
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
    fn lines_of_a_family_stand_together_and_names_are_escaped() {
        let mut gauges = Gauges::default();
        gauges.set(("a", "One."), &[("x", "1")], 2.0);
        gauges.set(("b", "Two."), &[], f64::NAN);
        gauges.set(("a", "One."), &[("x", "q\"\\\n"), ("y", "z")], 0.5);
        let expected = "# HELP a One.\n# TYPE a gauge\na{x=\"1\"} 2\na{x=\"q\\\"\\\\\\n\",y=\"z\"} 0.5\n\
                        # HELP b Two.\n# TYPE b gauge\nb{} NaN\n";
        assert_eq!(gauges.text(), expected);
    }
}
