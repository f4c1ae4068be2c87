// Every kernel of depthwise_conv2d on a GPU.
#pragma once

#include "depthwise_conv2d_any.cuh"
#include "depthwise_conv2d_band.cuh"
#include "depthwise_conv2d_gradients_nchw.cuh"
#include "depthwise_conv2d_gradients_nhwc.cuh"
#include "depthwise_conv2d_nchw.cuh"
#include "depthwise_conv2d_nhwc.cuh"
#include "depthwise_conv2d_weight_nchw.cuh"
#include "depthwise_conv2d_weight_nhwc.cuh"
#include "depthwise_conv2d_window.cuh"
