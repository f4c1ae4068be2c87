// The schema of every op, once. CPU kernels are registered by the file of their op beside this one;
// fake kernels, autograd and autocast by fastconv/ops/<op>.py.
#include "out.h"

STABLE_TORCH_LIBRARY(fastconv, m) {
  using fastconv::ops::def_with_out;
  // padding is (top, left, bottom, right)
  def_with_out(m,
               "depthwise_conv2d(Tensor input, Tensor weight, Tensor? bias, SymInt[2] stride, "
               "SymInt[4] padding, SymInt[2] dilation, str? activation=None) -> Tensor");
  m.def(
      "depthwise_conv2d_backward_input(Tensor grad_output, Tensor input, Tensor weight, "
      "SymInt[2] stride, SymInt[4] padding, SymInt[2] dilation) -> Tensor");
  m.def(
      "depthwise_conv2d_backward_weight(Tensor grad_output, Tensor input, Tensor weight, "
      "SymInt[2] stride, SymInt[4] padding, SymInt[2] dilation) -> (Tensor, Tensor)");
  m.def(
      "depthwise_conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, "
      "SymInt[2] stride, SymInt[4] padding, SymInt[2] dilation) -> (Tensor, Tensor, Tensor)");
  // With mean and var over those, which two empty tensors then stand for in the result; without
  // them over the batch's own, which are then the second result and the third (biased).
  m.def(
      "batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? mean, Tensor? var, "
      "float eps, str? activation=None) -> (Tensor, Tensor, Tensor)");
  m.def(
      "batch_norm_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, "
      "Tensor mean, Tensor var, bool training, float eps, str? activation, bool[3] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
  // Of a 1x1 convolution without bias and the batch norm in training behind it: the gradients of
  // input, conv_weight, weight and bias.
  m.def(
      "pointwise_batch_norm_backward(Tensor grad_output, Tensor conv_output, Tensor input, "
      "Tensor conv_weight, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps, "
      "str? activation) -> (Tensor, Tensor, Tensor, Tensor)");
  def_with_out(m, "residual_add(Tensor input, Tensor residual, str? activation=None) -> Tensor");
  // For training on a GPU, with ReLU or ReLU6 and tensors of one size: the second result has a bit
  // an element, where the gradient passes, in the order of the output's memory.
  m.def(
      "residual_add_with_mask(Tensor input, Tensor residual, str activation) -> (Tensor, Tensor)");
  def_with_out(m,
               "local_response_norm(Tensor input, int size, float alpha=0.0001, float beta=0.75, "
               "float k=1.0) -> Tensor");
  m.def(
      "local_response_norm_backward(Tensor grad_output, Tensor input, int size, "
      "float alpha=0.0001, float beta=0.75, float k=1.0) -> Tensor");
  def_with_out(m,
               "pointwise_conv2d(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, "
               "SymInt[2] stride, str? activation=None) -> Tensor");
  m.def(
      "pointwise_conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, "
      "SymInt[2] stride, bool[3] output_mask) -> (Tensor, Tensor, Tensor)");
  // weight may be in panels: fastconv.ops.pack_dense_weight
  def_with_out(m,
               "dense_conv2d(Tensor input, Tensor weight, Tensor? bias, Tensor? residual, "
               "SymInt[2] stride, SymInt[4] padding, SymInt[2] dilation, str? activation=None) "
               "-> Tensor");
  def_with_out(m,
               "stem_conv2d(Tensor input, Tensor weight, Tensor? bias, SymInt[2] stride, "
               "SymInt[4] padding, str? activation=None) -> Tensor");
  def_with_out(
      m,
      "max_pool2d(Tensor input, SymInt[2] kernel_size, SymInt[2] stride, SymInt[2] padding, "
      "bool ceil_mode=False) -> Tensor");
  def_with_out(m, "global_avg_pool2d(Tensor input) -> Tensor");
  m.def("global_avg_pool2d_backward(Tensor grad_output, Tensor input) -> Tensor");
  // The blocks are for inference: their gradients are those of their reference.
  def_with_out(m,
               "inverted_residual(Tensor input, Tensor expand_weight, Tensor? expand_bias, "
               "Tensor depthwise_weight, Tensor? depthwise_bias, Tensor project_weight, "
               "Tensor? project_bias, Tensor? squeeze_reduce_weight, Tensor? squeeze_reduce_bias, "
               "Tensor? squeeze_expand_weight, Tensor? squeeze_expand_bias, SymInt[2] stride, "
               "SymInt[4] padding, str? activation=None, bool residual=False, "
               "str? squeeze_activation=None, str squeeze_gate='sigmoid') -> Tensor");
  def_with_out(m,
               "separable_conv2d(Tensor input, Tensor depthwise_weight, Tensor? depthwise_bias, "
               "Tensor pointwise_weight, Tensor? pointwise_bias, Tensor? residual, "
               "Tensor? squeeze_reduce_weight, Tensor? squeeze_reduce_bias, "
               "Tensor? squeeze_expand_weight, Tensor? squeeze_expand_bias, SymInt[2] stride, "
               "SymInt[4] padding, SymInt[2] dilation, str? activation=None, "
               "str? pointwise_activation=None, str? squeeze_activation=None, "
               "str squeeze_gate='sigmoid') -> Tensor");
  // The calls that a text tells, each result in its tensor of out: sequence.cpp.
  m.def("sequence(Tensor[] inputs, str calls, *, Tensor(a!)[] out) -> ()");
  m.def("activation_backward(Tensor grad_output, Tensor z, str? activation=None) -> Tensor");
  m.def(
      "activation_backward_from_mask(Tensor grad_output, Tensor mask, bool channels_last) -> "
      "Tensor");
}
