"""Headers that stand in for those of TensorFlow Lite Micro and LiteRT, so that C++ can be compiled and run."""

# Declarations of what the sources use, with a model that copies its inputs to its outputs as real numbers.
TYPES = """
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
typedef enum { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;
typedef enum { kTfLiteFloat32 = 1, kTfLiteInt8 = 9 } TfLiteType;
typedef struct { float scale; int32_t zero_point; } TfLiteQuantizationParams;
typedef union { float* f; int8_t* int8; uint8_t* uint8; int16_t* i16; } TfLitePtrUnion;
struct TfLiteTensor { TfLiteType type; TfLitePtrUnion data; TfLiteQuantizationParams params; size_t bytes; };
inline void CopyReal(const TfLiteTensor& from, TfLiteTensor& to, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    float x = from.type == kTfLiteInt8 ? from.params.scale * (from.data.int8[i] - from.params.zero_point)
                                       : from.data.f[i];
    if (to.type == kTfLiteInt8) {
      to.data.int8[i] = static_cast<int8_t>(std::lround(x / to.params.scale) + to.params.zero_point);
    } else {
      to.data.f[i] = x;
    }
  }
}
"""
MICRO = {
    "tensorflow/lite/schema/schema_generated.h": """
#pragma once
#include <cstdint>
#define TFLITE_SCHEMA_VERSION (3)
namespace tflite {
struct Model { uint32_t version() const { return 3; } };
inline const Model* GetModel(const void* buf) { static Model m; return buf == nullptr ? nullptr : &m; }
}
""",
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": """
#pragma once
#include "types.h"
namespace tflite {
class MicroOpResolver {};
template <unsigned int tOpCount> class MicroMutableOpResolver : public MicroOpResolver {
  unsigned int used_ = 0;
  TfLiteStatus Add() { return used_++ < tOpCount ? kTfLiteOk : kTfLiteError; }
 public:
  METHODS
};
}
""",
    "tensorflow/lite/micro/micro_interpreter.h": """
#pragma once
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"
namespace tflite {
class MicroInterpreter {
  int8_t q_[2][8]; float f_[2][8]; TfLiteTensor t_[2];
 public:
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t* arena, size_t size) {
    (void)arena; (void)size;
    const TfLiteQuantizationParams params[2] = {{0.5f, -3}, {0.25f, 4}};
    for (int i = 0; i < 2; ++i) {
      t_[i].type = WHOLE ? kTfLiteInt8 : kTfLiteFloat32;
      t_[i].params = params[i];
      if (WHOLE) t_[i].data.int8 = q_[i]; else t_[i].data.f = f_[i];
    }
  }
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  TfLiteStatus Invoke() { CopyReal(t_[0], t_[1], 4); return kTfLiteOk; }
  TfLiteTensor* input(size_t) { return &t_[0]; }
  TfLiteTensor* output(size_t) { return &t_[1]; }
  size_t arena_used_bytes() const { return 77; }
};
}
""",
}
C_API = """
#pragma once
#include "types.h"
struct TfLiteModel {};
struct TfLiteInterpreterOptions { int32_t threads; };
struct TfLiteInterpreter { int8_t q[2][8]; float f[2][8]; TfLiteTensor t[2]; };
struct TfLiteSignatureRunner { TfLiteInterpreter* owner; };
inline int& Alive() { static int alive = 0; return alive; }
inline TfLiteModel* TfLiteModelCreateFromFile(const char* path) {
  return std::strcmp(path, "ae.tflite") == 0 ? (++Alive(), new TfLiteModel) : nullptr;
}
inline void TfLiteModelDelete(TfLiteModel* m) { --Alive(); delete m; }
inline TfLiteInterpreterOptions* TfLiteInterpreterOptionsCreate() {
  ++Alive();
  return new TfLiteInterpreterOptions;
}
inline void TfLiteInterpreterOptionsDelete(TfLiteInterpreterOptions* o) { --Alive(); delete o; }
inline void TfLiteInterpreterOptionsSetNumThreads(TfLiteInterpreterOptions* o, int32_t n) { o->threads = n; }
inline TfLiteInterpreter* TfLiteInterpreterCreate(const TfLiteModel*, const TfLiteInterpreterOptions*) {
  ++Alive();
  TfLiteInterpreter* it = new TfLiteInterpreter;
  const TfLiteQuantizationParams params[2] = {{0.5f, -3}, {0.25f, 4}};
  for (int i = 0; i < 2; ++i) {
    it->t[i].type = WHOLE ? kTfLiteInt8 : kTfLiteFloat32;
    it->t[i].params = params[i];
    it->t[i].bytes = WHOLE ? 4 : 16;
    if (WHOLE) it->t[i].data.int8 = it->q[i]; else it->t[i].data.f = it->f[i];
  }
  return it;
}
inline void TfLiteInterpreterDelete(TfLiteInterpreter* it) { --Alive(); delete it; }
inline TfLiteStatus TfLiteInterpreterAllocateTensors(TfLiteInterpreter*) { return kTfLiteOk; }
inline TfLiteStatus TfLiteInterpreterInvoke(TfLiteInterpreter* it) {
  CopyReal(it->t[0], it->t[1], 4);
  return kTfLiteOk;
}
inline TfLiteTensor* TfLiteInterpreterGetInputTensor(const TfLiteInterpreter* it, int32_t i) {
  return const_cast<TfLiteTensor*>(&it->t[i]);
}
inline const TfLiteTensor* TfLiteInterpreterGetOutputTensor(const TfLiteInterpreter* it, int32_t i) {
  return &it->t[1 + i];
}
inline TfLiteSignatureRunner* TfLiteInterpreterGetSignatureRunner(const TfLiteInterpreter* it, const char* key) {
  if (std::strcmp(key, "encoder") != 0) return nullptr;
  ++Alive();
  return new TfLiteSignatureRunner{const_cast<TfLiteInterpreter*>(it)};
}
inline void TfLiteSignatureRunnerDelete(TfLiteSignatureRunner* r) { --Alive(); delete r; }
inline TfLiteStatus TfLiteSignatureRunnerAllocateTensors(TfLiteSignatureRunner*) { return kTfLiteOk; }
inline TfLiteStatus TfLiteSignatureRunnerInvoke(TfLiteSignatureRunner* r) {
  return TfLiteInterpreterInvoke(r->owner);
}
inline const char* TfLiteSignatureRunnerGetInputName(const TfLiteSignatureRunner*, int32_t) { return "x"; }
inline const char* TfLiteSignatureRunnerGetOutputName(const TfLiteSignatureRunner*, int32_t) { return "y"; }
inline TfLiteTensor* TfLiteSignatureRunnerGetInputTensor(TfLiteSignatureRunner* r, const char* name) {
  return *name == 'x' ? &r->owner->t[0] : nullptr;
}
inline const TfLiteTensor* TfLiteSignatureRunnerGetOutputTensor(const TfLiteSignatureRunner* r, const char* name) {
  return *name == 'y' ? &r->owner->t[1] : nullptr;
}
inline TfLiteType TfLiteTensorType(const TfLiteTensor* t) { return t->type; }
inline size_t TfLiteTensorByteSize(const TfLiteTensor* t) { return t->bytes; }
inline TfLiteQuantizationParams TfLiteTensorQuantizationParams(const TfLiteTensor* t) { return t->params; }
inline TfLiteStatus TfLiteTensorCopyFromBuffer(TfLiteTensor* t, const void* data, size_t size) {
  if (size != t->bytes) return kTfLiteError;
  std::memcpy(WHOLE ? static_cast<void*>(t->data.int8) : t->data.f, data, size);
  return kTfLiteOk;
}
inline TfLiteStatus TfLiteTensorCopyToBuffer(const TfLiteTensor* t, void* data, size_t size) {
  if (size != t->bytes) return kTfLiteError;
  std::memcpy(data, WHOLE ? static_cast<const void*>(t->data.int8) : t->data.f, size);
  return kTfLiteOk;
}
"""
METHODS = """Abs Add AveragePool2D BatchMatMul Concatenation Conv2D DepthwiseConv2D Dequantize Exp FullyConnected
LeakyRelu Logistic MaxPool2D Mul Quantize Relu Reshape Softmax Tanh TransposeConv UnidirectionalSequenceLSTM"""


def headers(folder, *, whole=False):
    """Stub headers below `folder`; `whole`: the model has int8 inputs and outputs."""
    methods = "\n".join(f"  TfLiteStatus Add{name}() {{ return Add(); }}" for name in METHODS.split())
    texts = {"types.h": TYPES, **MICRO, "tensorflow/lite/c/c_api.h": C_API}
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("METHODS", methods).replace("WHOLE", str(whole).lower()))
    return [f"-I{folder}"]
