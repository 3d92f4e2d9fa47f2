//! What came out, for people (a table and a plot) and for programs (JSON). Pure: figures in, text out.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::measure::median;
use crate::peers::Kind;
use crate::workloads::{Sample, Workload};

/// Everybody is compared with this one.
const YARDSTICK: Kind = Kind::Nginx;

/// All samples of a run.
#[derive(Default)]
pub(crate) struct Results {
    rows: Vec<(Workload, Kind, Vec<Sample>)>,
    /// What could not be measured, and why.
    pub(crate) notes: Vec<String>,
}

/// The medians of one workload and peer, in the order of the figures.
struct Medians {
    kind: Kind,
    figures: Vec<Median>,
}

struct Median {
    name: &'static str,
    unit: &'static str,
    value: f64,
    least: f64,
    most: f64,
}

impl Results {
    pub(crate) fn add(&mut self, workload: Workload, kind: Kind, sample: Sample) {
        match self.rows.iter_mut().find(|(of, by, _)| (*of, *by) == (workload, kind)) {
            Some((_, _, samples)) => samples.push(sample),
            None => self.rows.push((workload, kind, vec![sample])),
        }
    }

    fn workloads(&self) -> impl Iterator<Item = (Workload, Vec<Medians>)> {
        Workload::ALL.into_iter().map(|workload| (workload, self.of(workload))).filter(|(_, peers)| !peers.is_empty())
    }

    fn of(&self, workload: Workload) -> Vec<Medians> {
        let mut peers: Vec<_> = self
            .rows
            .iter()
            .filter(|(of, _, _)| *of == workload)
            .map(|(_, kind, samples)| medians(*kind, samples))
            .collect();
        peers.sort_by_key(|peer| peer.kind);
        peers
    }

    /// Two kinds of Markdown tables: the first figure of everything, then everything of each workload.
    pub(crate) fn table(&self, about: &Value) -> String {
        let mut text = heading(about);
        let mut kinds: Vec<_> = self.rows.iter().map(|(_, kind, _)| *kind).collect();
        kinds.sort();
        kinds.dedup();
        let mut rows = vec![
            ["workload", "figure"].into_iter().chain(kinds.iter().map(|kind| kind.name())).map(String::from).collect(),
        ];
        for (workload, peers) in self.workloads() {
            let Some(lead) = lead(&peers) else { continue };
            let cells = kinds.iter().map(|kind| match value(&peers, *kind, lead.name) {
                Some(found) => format!("{}{}{}", short(found), ratio(&peers, *kind, lead.name), failed(&peers, *kind)),
                None => "–".into(),
            });
            rows.push([workload.title(), label(lead)].into_iter().chain(cells).collect());
        }
        text += &aligned(&rows);

        for (workload, peers) in self.workloads() {
            let Some(widest) = peers.iter().max_by_key(|peer| peer.figures.len()) else { continue };
            let mut rows =
                vec![[workload.title()].into_iter().chain(widest.figures.iter().map(label)).collect::<Vec<_>>()];
            for peer in &peers {
                let cells = widest.figures.iter().map(|figure| match value(&peers, peer.kind, figure.name) {
                    Some(found) => short(found) + &added(&peers, workload, peer.kind, figure.name, found),
                    None => "–".into(),
                });
                rows.push([peer.kind.name().into()].into_iter().chain(cells).collect());
            }
            text += "\n";
            text += &aligned(&rows);
        }
        text += "\n";
        for note in &self.notes {
            _ = writeln!(text, "not measured: {note}");
        }
        text
    }

    /// Medians and extremes of everything.
    pub(crate) fn json(&self, about: &Value) -> Value {
        let mut workloads = Map::new();
        for (workload, peers) in self.workloads() {
            let of_peer = |peer: &Medians| {
                let of_figure = |figure: &Median| {
                    let ratio = value(&peers, YARDSTICK, figure.name)
                        .map(|yardstick| figure.value / yardstick)
                        .filter(|ratio| ratio.is_finite());
                    let content = json!({ "unit": figure.unit, "median": figure.value, "least": figure.least, "most": figure.most, "to nginx": ratio });
                    (figure.name.to_owned(), content)
                };
                (peer.kind.name().to_owned(), Value::Object(peer.figures.iter().map(of_figure).collect()))
            };
            workloads.insert(workload.name(), Value::Object(peers.iter().map(of_peer).collect()));
        }
        json!({ "about": about, "workloads": workloads, "not measured": self.notes })
    }

    /// Bars of the first figure of the workloads that say most. Colours are readable on light and on dark, and text takes
    /// the reader's choice where the viewer passes it on.
    pub(crate) fn plot(&self, about: &Value) -> String {
        const WORTH_A_PICTURE: [&str; 8] = [
            "small-plain-50",
            "small-tls-50",
            "small-plain-500",
            "small-tls-500",
            "down-plain",
            "down-tls",
            "distant",
            "memory",
        ];
        const WIDTH: usize = 430;
        const LABELS: usize = 70;
        const BARS: f64 = 270.0;
        const LINE: usize = 20;
        let panels: Vec<_> =
            self.workloads().filter(|(workload, _)| WORTH_A_PICTURE.contains(&workload.name().as_str())).collect();
        let most_bars = panels.iter().map(|(_, peers)| peers.len()).max().unwrap_or(0);
        let panel_height = 34 + LINE * most_bars + 16;
        let height = panels.len().div_ceil(2) * panel_height + 24;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {height}\" width=\"{w}\" height=\"{height}\" role=\"img\">\n\
             <title>valetd beside other proxies: shorter is better</title>\n<style>\n\
             text {{ font: 12px system-ui, sans-serif; fill: #57606a }} .title {{ font-weight: 600 }} .small {{ font-size: 10px }}\n\
             rect {{ fill: #8c959f }} .ours {{ fill: #2da44e }}\n\
             @media (prefers-color-scheme: dark) {{ text {{ fill: #adbac7 }} rect {{ fill: #768390 }} .ours {{ fill: #46954a }} }}\n</style>\n",
            w = 2 * WIDTH
        );
        for (place, (workload, peers)) in panels.iter().enumerate() {
            let (left, top) = ((place % 2) * WIDTH, (place / 2) * panel_height);
            let Some(lead) = lead(peers) else { continue };
            _ = writeln!(
                svg,
                "<text class=\"title\" x=\"{}\" y=\"{}\">{}: {}</text>",
                left + 8,
                top + 22,
                workload.title(),
                label(lead)
            );
            let bars = || peers.iter().filter_map(|peer| Some((peer.kind, value(peers, peer.kind, lead.name)?)));
            let longest = bars().map(|(_, value)| value).fold(f64::MIN_POSITIVE, f64::max);
            for (line, (kind, value)) in bars().enumerate() {
                let y = top + 34 + line * LINE;
                let (length, class) =
                    (BARS * value / longest, if kind == Kind::Valetd { " class=\"ours\"" } else { "" });
                _ = writeln!(
                    svg,
                    "<text x=\"{name_x}\" y=\"{text_y}\" text-anchor=\"end\">{name}</text><rect{class} x=\"{x}\" y=\"{y}\" width=\"{length:.1}\" height=\"14\" rx=\"2\"/>\
                     <text x=\"{value_x:.1}\" y=\"{text_y}\">{value}</text>",
                    name = kind.name(),
                    name_x = left + LABELS,
                    text_y = y + 11,
                    x = left + LABELS + 6,
                    value_x = (left + LABELS + 12) as f64 + length,
                    value = short(value),
                );
            }
        }
        let machine = format!("shorter is better · {}", machine_line(about));
        _ = writeln!(svg, "<text class=\"small\" x=\"8\" y=\"{}\">{}</text>\n</svg>", height - 8, escaped(&machine));
        svg
    }
}

fn medians(kind: Kind, samples: &[Sample]) -> Medians {
    let mut figures: Vec<Median> = Vec::new();
    for figure in samples.iter().flatten() {
        if figures.iter().any(|known| known.name == figure.name) {
            continue;
        }
        let values: Vec<f64> =
            samples.iter().flatten().filter(|other| other.name == figure.name).map(|other| other.value).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        figures.push(Median { name: figure.name, unit: figure.unit, value: median(values), least, most });
    }
    Medians { kind, figures }
}

/// The first figure of whoever has most to show: a direct call has no process whose CPU could be counted, and the relay does
/// not hold all the connections that the others do.
fn lead(peers: &[Medians]) -> Option<&Median> {
    peers.iter().rev().max_by_key(|peer| peer.figures.len())?.figures.first()
}

fn value(peers: &[Medians], kind: Kind, name: &str) -> Option<f64> {
    let peer = peers.iter().find(|peer| peer.kind == kind)?;
    Some(peer.figures.iter().find(|figure| figure.name == name)?.value)
}

fn label(figure: &Median) -> String {
    if figure.unit.is_empty() { figure.name.into() } else { format!("{}, {}", figure.name, figure.unit) }
}

/// How a figure compares with the yardstick's.
fn ratio(peers: &[Medians], kind: Kind, name: &str) -> String {
    match (value(peers, kind, name), value(peers, YARDSTICK, name)) {
        (Some(ours), Some(theirs)) if kind != YARDSTICK && theirs > 0.0 => format!(" ({:.2}×)", ours / theirs),
        _ => String::new(),
    }
}

/// A figure of work that was not all done must not pass for a figure.
fn failed(peers: &[Medians], kind: Kind) -> String {
    match value(peers, kind, "errors") {
        Some(errors) if errors > 0.0 => format!(" !! {errors} errors"),
        _ => String::new(),
    }
}

/// At one connection a latency means most as what the proxy adds to a direct call.
fn added(peers: &[Medians], workload: Workload, kind: Kind, name: &str, found: f64) -> String {
    let alone = matches!(workload, Workload::Small { connections: 1, .. });
    match value(peers, Kind::Direct, name) {
        Some(direct) if alone && kind != Kind::Direct && name.starts_with('p') => {
            format!(" (+{})", short(found - direct))
        }
        _ => String::new(),
    }
}

/// Three digits, as no figure here deserves more.
fn short(value: f64) -> String {
    let digits = match value.abs() {
        whole if whole == whole.trunc() || whole >= 100.0 => 0,
        large if large >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, &width) in widths.iter().enumerate() {
            _ = write!(text, "| {:width$} ", cell(row, column));
        }
        text += "|\n";
        if index == 0 {
            for width in &widths {
                _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text += "|\n";
        }
    }
    text
}

fn heading(about: &Value) -> String {
    let mut text = format!("{}\n", machine_line(about));
    for (name, version) in about["versions"].as_object().into_iter().flatten() {
        _ = writeln!(text, "{name}: {}", version.as_str().unwrap_or("?"));
    }
    text + "(in brackets: the ratio to nginx; for latencies at 1 connection, what is added to a direct call; GB = 10^9 bytes)\n\n"
}

fn machine_line(about: &Value) -> String {
    let machine = &about["machine"];
    let load = machine["load average at the start"].as_f64().unwrap_or(f64::NAN);
    format!(
        "{}, {} cores, Linux {}, load average {load} at the start; rounds: {}{}",
        machine["cpu"].as_str().unwrap_or("?"),
        machine["cores"],
        machine["kernel"].as_str().unwrap_or("?"),
        about["rounds"],
        if about["quick"] == true { ", quick and therefore rough" } else { "" },
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
