//! Attention: over examples of several lengths, in a window under a soft cap, over examples that begin as another does,
//! and against a cache.

use candle_core::Tensor;

use super::super::case::{Case, Work};
use super::super::numbers::Numbers;
use super::super::size::Size;
use super::SUM;
use crate::Result;
use crate::ops::{AttentionShape, Backend, Portable, Span};

/// An [`AttentionShape`] that owns its spans.
#[derive(Clone)]
struct Layout {
    spans: Vec<Span>,
    window: Option<usize>,
    soft_cap: Option<f64>,
    heads: (usize, usize, usize),
}

impl Layout {
    fn shape(&self) -> AttentionShape<'_> {
        let (heads, kv_heads, head_dim) = self.heads;
        AttentionShape {
            heads,
            kv_heads,
            head_dim,
            spans: &self.spans,
            window: self.window,
            scale: 1.0 / (head_dim as f64).sqrt(),
            soft_cap: self.soft_cap,
        }
    }

    fn tokens(&self) -> (usize, usize) {
        let end = |of: fn(&Span) -> usize| self.spans.iter().map(of).max().unwrap_or(0);
        (end(|span| span.q.end), end(|span| span.k.end))
    }

    /// Pairs of a query and a key it sees.
    fn pairs(&self) -> usize {
        let window = self.window.unwrap_or(usize::MAX);
        let seen = |span: &Span| -> usize {
            (span.lead() + 1..=span.keys()).map(|keys| keys.min(window)).sum()
        };
        self.spans.iter().map(seen).sum()
    }
}

pub(super) fn cases(size: &Size) -> Result<Vec<Case>> {
    let Size { tokens, heads, kv_heads, head_dim, .. } = *size;
    let heads = (heads, kv_heads, head_dim);
    let causal = Layout {
        spans: vec![
            Span::causal(0..tokens / 2),
            Span::causal(tokens / 2..tokens / 2 + 1),
            Span::causal(tokens / 2 + 1..tokens),
        ],
        window: None,
        soft_cap: None,
        heads,
    };
    let window = Layout {
        spans: vec![Span::causal(0..tokens)],
        window: Some(tokens / 5),
        soft_cap: Some(0.5),
        heads,
    };
    let (ends, prefix) = ([tokens / 2, tokens - 2, tokens], 0..tokens / 3);
    let shared = Layout {
        spans: vec![
            Span::causal(0..ends[0]),
            Span { prefix: prefix.clone(), ..Span::causal(ends[0]..ends[1]) },
            Span { prefix, ..Span::causal(ends[1]..ends[2]) },
        ],
        window: Some(tokens / 2),
        ..causal
    };
    let against = |q, k| Span { q, prefix: 0..0, k };
    let cache = Layout {
        spans: vec![against(0..1, 0..tokens - 3), against(1..3, tokens - 3..tokens)],
        ..causal
    };
    let mut cases = Vec::new();
    for (op, op_backward, layout) in [
        ("attention", "attention_backward", causal),
        ("attention, window and cap", "attention_backward, window and cap", window),
        ("attention, shared beginning", "attention_backward, shared beginning", shared),
    ] {
        cases.push(forward(op, layout.clone())?);
        cases.push(backward(op_backward, layout)?);
    }
    cases.push(forward("attention, cache", cache)?);
    Ok(cases)
}

fn tensors(layout: &Layout, numbers: &mut Numbers) -> Result<Vec<Tensor>> {
    let (heads, kv_heads, head_dim) = layout.heads;
    let (queries, keys) = layout.tokens();
    Ok(vec![
        numbers.tensor(&[queries, heads * head_dim], 2.0)?,
        numbers.tensor(&[keys, kv_heads * head_dim], 2.0)?,
        numbers.tensor(&[keys, kv_heads * head_dim], 1.0)?,
    ])
}

/// Of so many products of a query or a score with a head.
fn work(layout: &Layout, products: usize) -> Work {
    let (heads, _, head_dim) = layout.heads;
    Work::Flops(2 * products * heads * head_dim * layout.pairs())
}

fn forward(op: &'static str, layout: Layout) -> Result<Case> {
    let inputs = tensors(&layout, &mut Numbers::default())?;
    Ok(Case::new(op, SUM, work(&layout, 2), inputs, move |ops, t| {
        let (out, lse) = ops.attention(&t[0], &t[1], &t[2], &layout.shape())?;
        Ok(vec![out, lse])
    })
    .of_activations(&[0, 1, 2]))
}

fn backward(op: &'static str, layout: Layout) -> Result<Case> {
    let mut numbers = Numbers::default();
    let mut inputs = tensors(&layout, &mut numbers)?;
    let (out, lse) = Portable.attention(&inputs[0], &inputs[1], &inputs[2], &layout.shape())?;
    let dout = numbers.tensor(out.dims(), 1.0)?;
    inputs.extend([out, lse, dout]);
    Ok(Case::new(op, SUM, work(&layout, 5), inputs, move |ops, t| {
        let [q, k, v, out, lse, dout] = t else { return Ok(Vec::new()) };
        let (dq, dk, dv) = ops.attention_backward(dout, q, k, v, out, lse, &layout.shape())?;
        Ok(vec![dq, dk, dv])
    })
    .of_activations(&[0, 1, 2, 3, 5]))
}
