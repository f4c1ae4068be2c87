// fastconv._C.direct: the direct call of an op (ops/direct.h) as a function of Python.
//
// Tensors are read through the C functions that torch offers to other libraries (DLPack's exchange
// API, 34 ns a tensor); a result becomes a Python object by the function that torch.compile's
// generated code has for it.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <vector>

#include "exchange.h"
#include "ops/direct.h"

namespace py = pybind11;

namespace fastconv {

namespace {

using ops::Direct;
using ops::Tensor;
using ops::Value;
using torch::headeronly::ScalarType;

// What is asked of torch once.
struct Torch {
  const exchange::Functions* exchange;
  py::object tensor, parameter;  // the types whose objects hide nothing
  PyCFunction is_neg;            // whether memory has the opposite of the values
  py::object requires_grad, adopt;

  static Torch find() {
    const auto module = py::module_::import("torch");
    Torch t;
    t.tensor = module.attr("Tensor"), t.parameter = module.attr("nn").attr("Parameter");
    t.is_neg = method(t.tensor.attr("is_neg"));
    t.requires_grad = py::str("requires_grad");
    t.adopt = module.attr("_C").attr("_aoti").attr("alloc_tensors_by_stealing_from_void_ptrs");
    const py::object capsule = t.tensor.attr("__dlpack_c_exchange_api__");
    t.exchange = static_cast<const exchange::Functions*>(
        PyCapsule_GetPointer(capsule.ptr(), exchange::kCapsule));
    if (!t.exchange) throw py::error_already_set();
    const bool serves = t.exchange->major_version == exchange::kMajorVersion && t.exchange->view;
    if (!serves) throw std::runtime_error("another version of DLPack");
    return t;
  }

 private:
  // What Python calls for a method that takes no arguments, without its call: 15 ns a tensor less.
  static PyCFunction method(const py::object& descriptor) {
    if (Py_TYPE(descriptor.ptr()) == &PyMethodDescr_Type) {
      const PyMethodDef* found = reinterpret_cast<PyMethodDescrObject*>(descriptor.ptr())->d_method;
      if (found->ml_flags == METH_NOARGS) return found->ml_meth;
    }
    throw std::runtime_error("another kind of method");
  }
};

// nullptr where this torch does not offer it.
const Torch* torch_here() {
  static const Torch* const found = []() -> const Torch* {
    try {
      return new Torch(Torch::find());  // never deleted: Python may be gone before
    } catch (const std::exception&) {
      return nullptr;
    }
  }();
  return found;
}

ScalarType scalar_type(const exchange::View& view) {
  const auto [code, bits, lanes] = view.dtype;
  if (lanes != 1) return ScalarType::Undefined;
  if (code == exchange::kFloat && bits == 32) return ScalarType::Float;
  if (code == exchange::kFloat && bits == 64) return ScalarType::Double;
  if (code == exchange::kFloat && bits == 16) return ScalarType::Half;
  if (code == exchange::kBfloat && bits == 16) return ScalarType::BFloat16;
  if (code == exchange::kInt && bits == 32) return ScalarType::Int;
  return ScalarType::Undefined;
}

// The functions below give false, with or without an error of Python, where the dispatcher should
// have the call.

bool read_tensor(const Torch& torch, PyObject* object, Value& value) {
  exchange::View t;
  if (torch.exchange->view(object, &t) != 0) return false;
  const ScalarType dtype = scalar_type(t);
  if (t.device_type != exchange::kCPU || dtype == ScalarType::Undefined) return false;
  const py::object negated = py::reinterpret_steal<py::object>(torch.is_neg(object, nullptr));
  if (negated.ptr() != Py_False) return false;
  const auto& tensor = value.emplace<Tensor>(static_cast<char*>(t.data) + t.byte_offset, dtype,
                                             Tensor::Lengths(t.sizes, size_t(t.dimensions)),
                                             Tensor::Lengths(t.strides, size_t(t.dimensions)));
  return t.data || tensor.numel() == 0;  // else one of zeros that are nowhere
}

// A call without arguments or an attribute, as a condition; an error counts as true.
bool holds(PyObject* result) {
  const auto owner = py::reinterpret_steal<py::object>(result);
  return !result || PyObject_IsTrue(result) != 0;
}

bool read_integer(PyObject* object, int64_t& value) {
  if (!PyLong_CheckExact(object)) return false;
  value = PyLong_AsLongLong(object);
  return value != -1 || !PyErr_Occurred();
}

bool read_integers(PyObject* list, Value& value) {  // or a tuple
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(list);
  ops::Sizes& integers = value.emplace<ops::Sizes>(count);
  for (Py_ssize_t i = 0; i < count; ++i) {
    if (!read_integer(PySequence_Fast_GET_ITEM(list, i), integers[i])) return false;
  }
  return true;
}

bool is_plain_tensor(const Torch& torch, PyObject* object) {
  const PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  return type == torch.tensor.ptr() || type == torch.parameter.ptr();
}

bool read_tensors(const Torch& torch, PyObject* list, Value& value) {
  const Py_ssize_t count = PySequence_Fast_GET_SIZE(list);
  ops::Tensors& tensors = value.emplace<ops::Tensors>();
  tensors.reserve(count);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* object = PySequence_Fast_GET_ITEM(list, i);
    Value one;
    if (!is_plain_tensor(torch, object) || !read_tensor(torch, object, one)) return false;
    tensors.push_back(std::get<Tensor>(std::move(one)));
  }
  return true;
}

bool read_list(const Torch& torch, PyObject* list, Value& value) {  // or a tuple
  const bool of_tensors = PySequence_Fast_GET_SIZE(list) > 0 &&
                          is_plain_tensor(torch, PySequence_Fast_GET_ITEM(list, 0));
  return of_tensors ? read_tensors(torch, list, value) : read_integers(list, value);
}

bool read(const Torch& torch, PyObject* object, Value& value) {
  if (object == Py_None) return true;
  if (is_plain_tensor(torch, object)) return read_tensor(torch, object, value);
  if (PyTuple_Check(object) || PyList_Check(object)) return read_list(torch, object, value);
  if (PyLong_CheckExact(object)) return read_integer(object, value.emplace<int64_t>());
  if (PyUnicode_CheckExact(object)) {
    const char* text = PyUnicode_AsUTF8(object);
    if (text) value = ops::Text{text};
    return text != nullptr;
  }
  if (PyFloat_CheckExact(object)) {
    value = PyFloat_AS_DOUBLE(object);
    return true;
  }
  if (PyBool_Check(object)) {
    value = object == Py_True;
    return true;
  }
  return false;
}

PyObject* adopt(const Torch& torch, const Tensor& tensor) {
  AtenTensorHandle handle;
  if (aoti_torch_new_tensor_handle(static_cast<const torch::stable::Tensor&>(tensor).get(),
                                   &handle)) {
    return nullptr;
  }
  py::list handles(1);
  PyList_SET_ITEM(handles.ptr(), 0, py::capsule(static_cast<void*>(handle)).release().ptr());
  PyObject* list = handles.ptr();
  const auto tensors =
      py::reinterpret_steal<py::object>(PyObject_Vectorcall(torch.adopt.ptr(), &list, 1, nullptr));
  if (!tensors || !PyList_CheckExact(tensors.ptr())) return nullptr;
  return Py_NewRef(PyList_GET_ITEM(tensors.ptr(), 0));
}

struct Function {
  Direct direct;
  py::object otherwise;
  std::vector<py::object> watchers;

  // Whether anything but a kernel is to see the call.
  bool is_watched(const Torch& torch, PyObject* const* arguments, const Value* values) const {
    for (const py::object& watcher : watchers) {
      if (holds(PyObject_CallNoArgs(watcher.ptr()))) return true;
    }
    if (!aoti_torch_grad_mode_is_enabled()) return false;
    for (size_t i = 0; i < direct.count; ++i) {
      if (std::holds_alternative<ops::Tensors>(values[i])) return true;
      if (!std::holds_alternative<Tensor>(values[i])) continue;
      if (holds(PyObject_GetAttr(arguments[i], torch.requires_grad.ptr()))) return true;
    }
    return false;
  }

  // nullptr where `otherwise` is to be called.
  PyObject* attempt(PyObject* const* arguments, Py_ssize_t count, PyObject* names) const {
    const Torch& torch = *torch_here();
    if (count != Py_ssize_t(direct.count)) return nullptr;
    Value values[ops::kMostValues], out;
    for (Py_ssize_t i = 0; i < count; ++i) {
      if (!read(torch, arguments[i], values[i])) return nullptr;
    }
    if (is_watched(torch, arguments, values)) return nullptr;
    const bool into = names && PyTuple_GET_SIZE(names) > 0;
    if (into) {
      const bool is_out = PyTuple_GET_SIZE(names) == 1 &&
                          PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "out") == 0;
      if (!is_out || !read(torch, arguments[count], out)) return nullptr;
      if (holds(PyObject_GetAttr(arguments[count], torch.requires_grad.ptr()))) return nullptr;
    }
    Tensor result;
    try {
      const py::gil_scoped_release released;
      result = direct.run(into ? &std::get<Tensor>(out) : nullptr, values);
    } catch (const std::exception&) {
      return nullptr;
    }
    if (!direct.returns) return Py_NewRef(Py_None);
    return into ? Py_NewRef(arguments[count]) : adopt(torch, result);
  }
};

PyObject* call(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
  const auto& function = *static_cast<Function*>(PyCapsule_GetPointer(self, nullptr));
  try {
    if (PyObject* result = function.attempt(arguments, count, names)) return result;
  } catch (const std::exception&) {
  }
  PyErr_Clear();
  return PyObject_Vectorcall(function.otherwise.ptr(), arguments, count, names);
}

PyMethodDef definition{"direct", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(&call)),
                       METH_FASTCALL | METH_KEYWORDS, nullptr};

py::object direct(const std::string& op, const py::object& otherwise,
                  std::vector<py::object> watchers) {
  const auto found = ops::direct_calls().find(op);
  if (found == ops::direct_calls().end() || !torch_here()) return otherwise;
  auto function =
      std::make_unique<Function>(Function{found->second, otherwise, std::move(watchers)});
  const py::capsule self(function.release(), [](void* f) { delete static_cast<Function*>(f); });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&definition, self.ptr()));
}

}  // namespace

void define_direct(py::module_& m) {
  m.def("direct", &direct, py::arg("op"), py::arg("otherwise"), py::arg("watchers"),
        "A function (*arguments, out) that runs an op on plain CPU tensors past the dispatcher, "
        "and otherwise(*arguments, out) where it cannot, where one of the watchers() is true and "
        "where a gradient is wanted; for an op without direct calls, otherwise itself.");
}

}  // namespace fastconv
