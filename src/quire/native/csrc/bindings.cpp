// Python bindings of the core's types. Arrays are borrowed for a call, never owned, and the GIL is released
// while the core computes.
#include "bindings.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "decoder.h"
#include "packed_file.h"

using namespace quire;

static void bind_enums(nb::module_& m) {
  nb::enum_<KVFormat>(m, "KVFormat")
      .value("F32", KVFormat::kF32)
      .value("BF16", KVFormat::kBF16)
      .value("INT8", KVFormat::kInt8)
      .value("INT8_INT4", KVFormat::kInt8Int4)
      .value("INT4", KVFormat::kInt4);
  nb::enum_<Prefetch>(m, "Prefetch")
      .value("NONE", Prefetch::kNone)
      .value("NEAR", Prefetch::kNear)
      .value("FAR", Prefetch::kFar)
      .value("BOTH", Prefetch::kBoth)
      .value("PACED", Prefetch::kPaced);
  nb::enum_<NormKind>(m, "NormKind").value("RMS", NormKind::kRms).value("LAYER", NormKind::kLayer);
  nb::enum_<NormPlacement>(m, "NormPlacement")
      .value("PRE", NormPlacement::kPre)
      .value("POST", NormPlacement::kPost)
      .value("SANDWICH", NormPlacement::kSandwich);
  nb::enum_<QKNorm>(m, "QKNorm")
      .value("NONE", QKNorm::kNone)
      .value("PER_HEAD", QKNorm::kPerHead)
      .value("WHOLE", QKNorm::kWhole);
  nb::enum_<Activation>(m, "Activation")
      .value("SILU", Activation::kSilu)
      .value("GELU", Activation::kGelu)
      .value("GELU_TANH", Activation::kGeluTanh)
      .value("RELU", Activation::kRelu);
}

static void bind_shapes(nb::module_& m) {
  nb::class_<Rope>(m, "Rope")
      .def(nb::init<>())
      .def_rw("inv_freq", &Rope::inv_freq)
      .def_rw("attention_factor", &Rope::attention_factor);
  nb::class_<FfnShape>(m, "FfnShape")
      .def(nb::init<>())
      .def_rw("is_gated", &FfnShape::is_gated)
      .def_rw("activation", &FfnShape::activation)
      .def_rw("size", &FfnShape::size)
      .def_rw("has_bias", &FfnShape::has_bias);
  nb::class_<LayerShape>(m, "LayerShape")
      .def(nb::init<>())
      .def_rw("rope", &LayerShape::rope, nb::arg().none())
      .def_rw("window", &LayerShape::window)
      .def_rw("ffn", &LayerShape::ffn);
  nb::class_<ModelShape>(m, "ModelShape")
      .def(nb::init<>())
      .def_rw("hidden_size", &ModelShape::hidden_size)
      .def_rw("num_heads", &ModelShape::num_heads)
      .def_rw("num_kv_heads", &ModelShape::num_kv_heads)
      .def_rw("head_dim", &ModelShape::head_dim)
      .def_rw("vocab_size", &ModelShape::vocab_size)
      .def_rw("max_context", &ModelShape::max_context)
      .def_rw("norm", &ModelShape::norm)
      .def_rw("norm_eps", &ModelShape::norm_eps)
      .def_rw("norm_placement", &ModelShape::norm_placement)
      .def_rw("qk_norm", &ModelShape::qk_norm)
      .def_rw("has_qkv_bias", &ModelShape::has_qkv_bias)
      .def_rw("has_attention_out_bias", &ModelShape::has_attention_out_bias)
      .def_rw("is_head_tied", &ModelShape::is_head_tied)
      .def_rw("has_learned_positions", &ModelShape::has_learned_positions)
      .def_rw("attention_scale", &ModelShape::attention_scale)
      .def_rw("embedding_scale", &ModelShape::embedding_scale)
      .def_rw("attention_softcap", &ModelShape::attention_softcap)
      .def_rw("logit_softcap", &ModelShape::logit_softcap)
      .def_rw("ropes", &ModelShape::ropes)
      .def_rw("layers", &ModelShape::layers);
}

NB_MODULE(_core, m) {
  m.doc() = "Quire's native core: kernels for several instruction sets and the decoder that runs on them.";
  bind_enums(m);
  bind_shapes(m);
  bind_formats(m);
  bind_decoder(m);
  m.attr("PANEL") = kPanel;
  m.attr("GROUP") = kGroup;
  m.attr("PIECE_BYTES") = kPiece;
  bind_kernels(m);
  bind_attention(m);
  bind_sampling(m);
}
