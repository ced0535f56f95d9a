//! From [`Screen`] to cells.

use fleetune_shared::view::{AgentView, JobPhase, JobView};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Cell, Paragraph, Row, Table, TableState};

use super::screen::{Pane, Screen};
use crate::output::{
    Colour, bar, closed, loss, now_ms, plain_line, shortened, sparkline, state, steps, used,
};

/// Below this nothing sensible can be shown.
const SMALLEST: (u16, u16) = (40, 9);

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("{}×{} at least", SMALLEST.0, SMALLEST.1);
        frame.render_widget(Paragraph::new(text).centered(), area);
        return;
    }
    let cards = screen.rows(Pane::Cards).max(1) as u16 + 3;
    let running = screen.rows(Pane::Running).max(1) as u16 + 3;
    // Cards and running jobs take what they need, but leave each other and the queue something.
    let third = (area.height - 2) / 3;
    let [head, cards_area, running_area, queue_area, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(cards.min(third.max(3))),
        Constraint::Length(running.min(third.max(3) + third.saturating_sub(cards))),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(heading(screen), head);
    draw_cards(frame, screen, cards_area);
    draw_running(frame, screen, running_area);
    draw_queue(frame, screen, queue_area);
    frame.render_widget(footer(screen), foot);
}

fn heading(screen: &Screen) -> Line<'static> {
    let count = |phase| screen.fleet.jobs.iter().filter(|j| j.phase == phase).count();
    let ended =
        format!("{} succeeded, {} failed", count(JobPhase::Succeeded), count(JobPhase::Failed));
    Line::from(vec![
        "fleetune ".bold(),
        Span::from(screen.address.clone()).dim(),
        Span::from(format!(
            "  {} running, {} queued, ",
            screen.rows(Pane::Running),
            screen.rows(Pane::Queue)
        )),
        Span::from(ended),
    ])
}

fn footer(screen: &Screen) -> Line<'static> {
    match &screen.trouble {
        Some(trouble) => Line::from(format!("{}; trying again", plain_line(trouble))).red(),
        None => Line::from("q quit   tab next part   ↑↓ move").dim(),
    }
}

fn block(screen: &Screen, pane: Pane, title: &str) -> Block<'static> {
    let focused = screen.focus == pane;
    let style = if focused { Style::new().fg(Color::Cyan) } else { Style::new().dim() };
    let title = format!(" {title} ({}) ", screen.rows(pane));
    Block::bordered().border_type(BorderType::Rounded).border_style(style).title(title)
}

fn colour(colour: Colour) -> Style {
    match colour {
        Colour::Good => Style::new().green(),
        Colour::Bad => Style::new().red(),
        Colour::Waiting => Style::new().yellow(),
        Colour::Active => Style::new().cyan(),
        Colour::Quiet => Style::new().dim(),
        Colour::Strong => Style::new().bold(),
    }
}

/// A list with a quiet heading, the chosen row marked where it has the focus.
fn list<const N: usize>(
    frame: &mut Frame<'_>,
    screen: &Screen,
    (pane, area): (Pane, Rect),
    columns: [(&'static str, Constraint); N],
    rows: Vec<Row<'_>>,
) {
    let title = match pane {
        Pane::Cards => "cards",
        Pane::Running => "running",
        Pane::Queue => "queue",
    };
    let block = block(screen, pane, title);
    if rows.is_empty() {
        let text = match pane {
            Pane::Cards => "no agents; `fleetune agent --join ADDRESS` brings one",
            Pane::Running => "nothing runs",
            Pane::Queue => "nothing waits",
        };
        frame.render_widget(Paragraph::new(text.dim()).block(block), area);
        return;
    }
    let (head, widths): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let mut table = Table::new(rows, widths).block(block).column_spacing(2);
    // A heading is worth a line only where every row has one, or many have.
    let lines = usize::from(area.height.saturating_sub(2));
    if lines > screen.rows(pane) || lines > 3 {
        table = table.header(Row::new(head).style(Style::new().dim()));
    }
    if screen.focus == pane {
        table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    }
    let mut state = TableState::new().with_selected(screen.chosen(pane));
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_cards(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let wide = area.width >= 80;
    let width = if wide { 24 } else { 10 };
    let row = |agent: &AgentView| {
        let (word, how) = state(agent);
        let part = used(agent);
        let fill = if part > 0.9 { Color::Yellow } else { Color::Cyan };
        let (open, total) = (agent.vram_bytes_open, agent.offer.card.vram_bytes_total);
        let memory = closed(agent, now_ms()).unwrap_or_else(|| format!("{open} of {total} open"));
        let card = shortened(&plain_line(&agent.offer.card.name), 20);
        Row::new(vec![
            Cell::from(agent.name.to_string()),
            Cell::from(word).style(colour(how)),
            Cell::from(card),
            Cell::from(bar(part, width)).style(Style::new().fg(fill)),
            Cell::from(memory),
        ])
    };
    let rows = screen.fleet.agents.iter().map(row).collect();
    let columns = [
        ("agent", Constraint::Max(16)),
        ("state", Constraint::Length(9)),
        ("card", Constraint::Max(if wide { 20 } else { 10 })),
        ("promised", Constraint::Length(width as u16)),
        ("memory", Constraint::Min(10)),
    ];
    list(frame, screen, (Pane::Cards, area), columns, rows);
}

fn draw_running(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let wide = area.width >= 90;
    let row = |job: &&JobView| {
        let done = job.latest.as_ref().map_or(0, |m| m.step) as f64;
        let part = job.steps_total.map_or(0.0, |total| done / total.max(1) as f64);
        let losses = screen.losses.get(&job.id).map_or(&[][..], Vec::as_slice);
        let number = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "–".to_owned(), |v| format!("{v:.digits$}"))
        };
        let speed = number(job.latest.as_ref().map(|m| m.tokens_per_second), 0);
        Row::new(vec![
            Cell::from(job.id.to_string()),
            Cell::from(shortened(&plain_line(&job.name), 18)),
            Cell::from(job.agent.as_ref().map_or("–".to_owned(), ToString::to_string)),
            Cell::from(bar(part, 10)).style(Style::new().cyan()),
            Cell::from(if job.phase == JobPhase::Assigned { "starts".into() } else { steps(job) }),
            Cell::from(number(loss(job), 4)),
            Cell::from(sparkline(losses, 18)).style(Style::new().green()),
            Cell::from(speed),
        ])
    };
    let rows = screen.running().iter().map(row).collect();
    let columns = [
        ("job", Constraint::Length(4)),
        ("name", Constraint::Max(18)),
        ("agent", Constraint::Max(12)),
        ("progress", Constraint::Length(10)),
        ("steps", Constraint::Length(9)),
        ("loss", Constraint::Length(7)),
        ("curve", Constraint::Length(if wide { 18 } else { 0 })),
        ("tok/s", Constraint::Min(if wide { 6 } else { 0 })),
    ];
    list(frame, screen, (Pane::Running, area), columns, rows);
}

fn draw_queue(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let row = |job: &&JobView| {
        let why = job.waiting.as_deref().unwrap_or("waits");
        Row::new(vec![
            Cell::from(job.id.to_string()),
            Cell::from(shortened(&plain_line(&job.name), 18)),
            Cell::from(job.estimate.total().to_string()),
            Cell::from(plain_line(why)).style(Style::new().yellow()),
        ])
    };
    let rows = screen.queue().iter().map(row).collect();
    let columns = [
        ("job", Constraint::Length(4)),
        ("name", Constraint::Max(18)),
        ("needs", Constraint::Length(10)),
        ("why it waits", Constraint::Min(10)),
    ];
    list(frame, screen, (Pane::Queue, area), columns, rows);
}
