#pragma once

#include "pointwise_conv2d_gradient.cuh"
#include "pointwise_conv2d_gradient_mma.cuh"
#include "pointwise_conv2d_mma.cuh"
#include "pointwise_conv2d_simt.cuh"
