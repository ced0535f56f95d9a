//! One decoder block: attention, then the MLP, each with its residual. Which norms, biases, windows and caps it has is
//! data in [`ModelSpec`]; the same code is Llama, Mistral, Qwen, Gemma and Phi.

use candle_core::Tensor;
use fleetune_shared::ModelSpec;

use super::attention::{Attention, AttentionSaved};
use super::cache::KvCache;
use super::linear::Linear;
use super::mlp::{Mlp, MlpSaved};
use super::noise::Noise;
use super::norm::Norm;
use super::trainable::{Parameter, Trainable};
use crate::Result;
use crate::ops::{Backend, Rotary, Span};

#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) attention: Attention,
    pub(crate) mlp: Mlp,
}

/// What all blocks of one pass share.
pub(crate) struct Pass<'a> {
    pub(crate) ops: &'a dyn Backend,
    pub(crate) spec: &'a ModelSpec,
    /// Off, the base answers as if nothing were laid beside it: the reference of preference tuning.
    pub(crate) adapters: bool,
    /// What dropout is drawn from; nothing drops without it.
    pub(crate) noise: Option<Noise>,
    pub(crate) rotary: Rotary,
    /// Of blocks with a sliding window, where they turn otherwise.
    pub(crate) local_rotary: Option<Rotary>,
    pub(crate) spans: Vec<Span>,
}

impl Pass<'_> {
    pub(crate) fn rotary(&self, local: bool) -> &Rotary {
        self.local_rotary.as_ref().filter(|_| local).unwrap_or(&self.rotary)
    }
}

/// What a block keeps from its forward to its backward pass, in f32.
#[derive(Debug)]
pub(crate) struct Saved {
    attention: AttentionSaved,
    mlp: MlpSaved,
}

impl Saved {
    /// Lets go of what the backward pass can make again at the price of one product.
    pub(crate) fn shed(&mut self) {
        self.mlp.shed();
    }
}

impl Block {
    /// `[T, H]` to `[T, H]`, and what the backward pass needs. With a cache, keys and values of earlier tokens come
    /// from it and those of `x` join it; `index` is this block's place in it.
    pub(crate) fn forward(
        &self,
        pass: &Pass<'_>,
        x: Tensor,
        cache: Option<(usize, &mut KvCache)>,
    ) -> Result<(Tensor, Saved)> {
        let (middle, attention) = self.attention.forward(pass, x, cache)?;
        let (y, mlp) = self.mlp.forward(pass, middle)?;
        Ok((y, Saved { attention, mlp }))
    }

    /// From `dy` (`[T, H]`) to the input's gradient, if that is wanted, adding to the gradients of what learns.
    /// Nothing is computed below the lowest thing that learns.
    pub(crate) fn backward(
        &mut self,
        pass: &Pass<'_>,
        dy: Tensor,
        saved: Saved,
        want_dx: bool,
    ) -> Result<Option<Tensor>> {
        let want_middle = want_dx || self.attention.trained();
        match self.mlp.backward(pass, dy, saved.mlp, want_middle)? {
            None => Ok(None),
            Some(dmiddle) => self.attention.backward(pass, dmiddle, saved.attention, want_dx),
        }
    }

    /// Whether anything here learns.
    pub(crate) fn trained(&self) -> bool {
        self.attention.trained() || self.mlp.trained()
    }

    /// The linear layers, in the order of [`ModelSpec::linears`].
    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        let Self { attention, mlp } = self;
        attention
            .qkv
            .linears
            .iter()
            .chain([&attention.o])
            .chain(&mlp.gate_up.linears)
            .chain([&mlp.down])
    }

    /// As [`Self::linears`].
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.parts_mut().1
    }

    /// The norms, in the order of [`ModelSpec::block_norms`].
    fn norms(&self) -> impl Iterator<Item = &Norm> {
        let Self { attention, mlp } = self;
        let ends = [&attention.norm].into_iter().chain(&attention.out_norm.0);
        let middle = [&mlp.norm].into_iter().chain(&mlp.out_norm.0);
        ends.chain(middle).chain(attention.head_norms.iter().flatten())
    }

    /// Norms and linear layers at the same time.
    fn parts_mut(
        &mut self,
    ) -> (impl Iterator<Item = &mut Norm>, impl Iterator<Item = &mut Linear>) {
        let Attention { norm, qkv, head_norms, o, out_norm, .. } = &mut self.attention;
        let mlp = &mut self.mlp;
        let norms = [norm].into_iter().chain(&mut out_norm.0);
        let norms = norms.chain([&mut mlp.norm]).chain(&mut mlp.out_norm.0);
        let norms = norms.chain(head_norms.iter_mut().flatten());
        let linears = qkv.linears.iter_mut().chain([o]);
        (norms, linears.chain(&mut mlp.gate_up.linears).chain([&mut mlp.down]))
    }

    /// Every tensor of the base, in a fixed order.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let linears = self.linears().flat_map(|l| std::iter::once(&l.weight).chain(&l.bias));
        self.norms().map(|norm| &norm.weight).chain(linears)
    }

    /// As [`Self::parameters`].
    pub(crate) fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let (norms, linears) = self.parts_mut();
        let linears = linears.flat_map(|l| std::iter::once(&mut l.weight).chain(&mut l.bias));
        norms.map(|norm| &mut norm.weight).chain(linears)
    }

    /// What learns here, in a fixed order.
    pub(crate) fn trainables(&self) -> impl Iterator<Item = &Trainable> {
        let norms = self.norms().filter_map(|norm| norm.weight.trainable());
        norms.chain(self.linears().flat_map(Linear::trainables))
    }

    /// As [`Self::trainables`].
    pub(crate) fn trainables_mut(&mut self) -> impl Iterator<Item = &mut Trainable> {
        let (norms, linears) = self.parts_mut();
        let norms = norms.filter_map(|norm| norm.weight.trained_mut());
        norms.chain(linears.flat_map(Linear::trainables_mut))
    }
}
