//! The screen as text, on terminals of several sizes.

use fleetune_shared::JobId;
use fleetune_shared::view::FleetView;
use insta::assert_snapshot;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::keys::Key;
use super::screen::{Pane, Screen, Step};
use super::{News, draw};
use crate::output::tests::views::{agents, jobs};

fn screen() -> Screen {
    let fleet = FleetView { agents: agents(), jobs: jobs() };
    let mut screen = Screen::new("http://127.0.0.1:7070".into(), fleet);
    screen.losses.insert(JobId(2), (0..40).map(|i| 4.0 / f64::from(i + 1)).collect());
    screen
}

fn drawn(screen: &Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, screen)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn a_wide_screen_shows_everything() {
    assert_snapshot!("top_wide", drawn(&screen(), 120, 24));
}

#[test]
fn a_narrow_screen_leaves_out_the_least() {
    assert_snapshot!("top_narrow", drawn(&screen(), 60, 16));
}

#[test]
fn no_size_is_too_small_to_draw() {
    for (width, height) in [(1, 1), (40, 9), (41, 10), (200, 9), (39, 60), (300, 100)] {
        drawn(&screen(), width, height);
        drawn(&Screen::new(String::new(), FleetView::default()), width, height);
    }
}

#[test]
fn keys_move_between_parts_and_rows() {
    let mut screen = screen();
    screen.focus = Pane::Cards;
    assert_eq!(screen.key(Key::Up), Step::On);
    assert_eq!(screen.chosen(Pane::Cards), 0);
    (0..9).for_each(|_| _ = screen.key(Key::Down));
    assert_eq!(screen.chosen(Pane::Cards), 2);
    // A fleet that shrinks takes the choice along.
    screen.news(News::Fleet(Box::default()));
    assert_eq!(screen.chosen(Pane::Cards), 0);
    screen.key(Key::PreviousPane);
    assert_eq!(screen.focus, Pane::Queue);
    assert_eq!(screen.key(Key::Quit), Step::Quit);
}
