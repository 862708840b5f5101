// TVM's global functions, called and offered through its C interface. C++ exceptions must not cross between this
// program and TVM's libraries: it may have another C++ library than they have, as it has when zig compiles it.
#ifndef SOFTNEURO_TVM_BOARD_TVM_FUNCTIONS_H_
#define SOFTNEURO_TVM_BOARD_TVM_FUNCTIONS_H_

// Together with -fvisibility=hidden: otherwise TVM's libraries would use this program's copy of their error class.
#define TVM_FFI_DLL
#define TVM_FFI_DLL_EXPORT
#include <tvm/ffi/function.h>

#include <string>
#include <vector>

namespace board {

// Calls a global function; throws what it throws as tvm::ffi::Error.
inline tvm::ffi::Any call_tvm(const std::string& name, std::vector<tvm::ffi::AnyView> arguments) {
  const tvm::ffi::Function function = tvm::ffi::Function::GetGlobalRequired(name);
  tvm::ffi::Any result;
  TVM_FFI_CHECK_SAFE_CALL(TVMFFIFunctionCall(tvm::ffi::details::ObjectUnsafe::GetHeader(function.get()),
                                             reinterpret_cast<TVMFFIAny*>(arguments.data()),
                                             static_cast<int32_t>(arguments.size()),
                                             reinterpret_cast<TVMFFIAny*>(&result)));
  return result;
}

// Offers a function of a text, empty where the client gives none, under a name.
template <tvm::ffi::Any (*Body)(const std::string&)>
void offer_to_tvm(const std::string& name) {
  const auto safe_call = [](void*, const TVMFFIAny* arguments, int32_t count, TVMFFIAny* result) -> int {
    TVM_FFI_SAFE_CALL_BEGIN();
    std::string text;
    if (count > 0) {
      const auto given = reinterpret_cast<const tvm::ffi::AnyView*>(arguments)[0].cast<tvm::ffi::String>();
      text.assign(given.data(), given.size());
    }
    *reinterpret_cast<tvm::ffi::Any*>(result) = Body(text);
    TVM_FFI_SAFE_CALL_END();
  };
  tvm::ffi::Function::SetGlobal(name, tvm::ffi::Function::FromExternC(nullptr, safe_call, nullptr), true);
}

}  // namespace board

#endif  // SOFTNEURO_TVM_BOARD_TVM_FUNCTIONS_H_
