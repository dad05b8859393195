use std::ops::Index;

use ops::Precision;
use tensor::{Dims, NamedTensor, Slice, Storage};

/// Which parameter: a position in [`Params`]. Layers hold ids; the values stand in one place, where the optimiser, the
/// gradient buffers and the checkpoint find them without knowing any layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId(pub usize);

/// All weights of a model, each parameter once: a tied head, and the embedding and head that MTP layers share, have the
/// same id as the tensor they share.
#[derive(Debug)]
pub struct Params {
    /// The parameters, by id.
    pub all: Vec<Param>,
    /// What the operands of products with them are rounded to. The router's are not, whatever stands here
    /// (`spec/model.md` 4.1).
    pub precision: Precision,
}

/// One parameter.
#[derive(Debug)]
pub struct Param {
    /// Its values.
    pub value: Storage,
    /// What it is to the optimiser.
    pub kind: Kind,
    /// The checkpoint tensors that, one after the other, are its values: stacked experts and fused projections have
    /// several.
    pub parts: Vec<Part>,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Hugging Face's name.
    pub name: String,
    /// Its shape in the file.
    pub dims: Vec<usize>,
}

/// What a parameter is to the initialisation and the optimiser (`spec/training.md` 1.2, 1.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Drawn from a normal distribution; decays.
    Matrix,
    /// The gain of a norm: starts at 1, does not decay.
    Gain,
    /// Starts at 0, does not decay.
    Bias,
    /// `e_score_correction_bias`: starts at 0 and is moved by the load of its experts, never by a gradient.
    RoutingBias,
}

impl Kind {
    /// Whether it has a gradient.
    pub fn is_trained(self) -> bool {
        self != Self::RoutingBias
    }

    /// Whether weight decay applies.
    pub fn decays(self) -> bool {
        self == Self::Matrix
    }
}

impl Index<ParamId> for Params {
    type Output = Storage;

    fn index(&self, id: ParamId) -> &Storage {
        &self.all[id.0].value
    }
}

impl Params {
    /// Ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> {
        (0..self.all.len()).map(ParamId)
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        self.all.iter().map(|p| p.value.shape().len() as u64).sum()
    }

    /// Whether the values are stored in 16 bits or fewer, nearly all of them: then bf16 is what the model was made for.
    pub fn is_narrow(&self) -> bool {
        let bytes: u64 = self.all.iter().map(|p| p.value.size_bytes()).sum();
        bytes < 3 * self.count()
    }

    /// Every parameter as the tensors of a checkpoint.
    pub fn named_tensors(&self) -> Vec<NamedTensor<'_>> {
        self.all.iter().flat_map(|p| p.named_tensors(&p.value)).collect()
    }
}

impl Param {
    /// `values`, which have the shape of this parameter (itself, its gradient, a moment), as the tensors of a
    /// checkpoint.
    pub fn named_tensors<'a>(&'a self, values: &'a Storage) -> impl Iterator<Item = NamedTensor<'a>> {
        let mut start = 0;
        self.parts.iter().map(move |part| {
            let range = start..start + part.dims.iter().product::<usize>();
            start = range.end;
            NamedTensor {
                name: part.name.clone(),
                dims: part.dims.clone(),
                data: Slice::F32(&values.f32().data()[range]),
                keep_f32: self.kind == Kind::RoutingBias,
            }
        })
    }
}

/// Gives the values of a parameter.
pub(crate) type Make<'a, E> = dyn FnMut(ParamId, &[Part], Dims, Kind) -> Result<Storage, E> + 'a;

/// Makes the parameters of a model in a fixed order, from whatever `make` draws or loads.
pub(crate) struct Builder<'a, E> {
    pub(crate) params: Vec<Param>,
    pub(crate) make: &'a mut Make<'a, E>,
}

impl<E> Builder<'_, E> {
    /// A parameter that is one tensor of the checkpoint.
    pub(crate) fn one(&mut self, name: String, dims: &[usize], kind: Kind) -> Result<ParamId, E> {
        self.many(vec![Part { name, dims: dims.to_vec() }], dims, kind)
    }

    /// A parameter of shape `dims` that is several tensors, one after the other.
    pub(crate) fn many(&mut self, parts: Vec<Part>, dims: &[usize], kind: Kind) -> Result<ParamId, E> {
        let id = ParamId(self.params.len());
        let value = (self.make)(id, &parts, Dims::from(dims), kind)?;
        self.params.push(Param { value, kind, parts });
        Ok(id)
    }
}
