// Looks at an uploaded library before it is loaded: a damaged one kills the process, a foreign one fails obscurely.
#ifndef SOFTNEURO_TVM_BOARD_MODULE_FILE_H_
#define SOFTNEURO_TVM_BOARD_MODULE_FILE_H_

#include <elf.h>
#include <link.h>

#include <cstring>
#include <fstream>
#include <string>

namespace board {

#if defined(__x86_64__)
constexpr int kMachine = EM_X86_64;
#elif defined(__aarch64__)
constexpr int kMachine = EM_AARCH64;
#elif defined(__arm__)
constexpr int kMachine = EM_ARM;
#elif defined(__riscv)
constexpr int kMachine = EM_RISCV;
#else
#error "this processor is not known here; add its ELF machine number"
#endif

// What is wrong with a name that a client gives a file in the work folder; empty if nothing.
inline std::string name_problem(const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos)
    return "file name '" + name + "' refused: files live in the session's work folder, give a name without folders";
  return "";
}

// What is wrong with a library; empty if nothing.
inline std::string library_problem(const std::string& path, const std::string& name) {
  if (name.size() < 3 || name.compare(name.size() - 3, 3, ".so") != 0)
    return "'" + name + "' cannot be loaded: nothing is linked here, export a shared library whose name ends in .so";
  std::ifstream file(path, std::ios::binary);
  if (!file) return "'" + name + "' was not uploaded in this session";
  file.seekg(0, std::ios::end);
  const uint64_t size = static_cast<uint64_t>(file.tellg());
  file.seekg(0);
  ElfW(Ehdr) header{};
  if (!file.read(reinterpret_cast<char*>(&header), sizeof header) ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    return "'" + name + "' is no ELF shared library, or was cut off";
  const int own_class = sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32;
  if (header.e_ident[EI_CLASS] != own_class || header.e_machine != kMachine)
    return "'" + name + "' was built for another processor (ELF machine " + std::to_string(header.e_machine) +
           ", this board is " + std::to_string(kMachine) + "); build it with the board's target and cross compiler";
  // the table of sections is the last thing in what linkers write
  bool whole = header.e_shoff + uint64_t{header.e_shentsize} * header.e_shnum <= size;
  for (uint64_t i = 0; whole && i < header.e_phnum; ++i) {
    ElfW(Phdr) part{};
    file.seekg(static_cast<std::streamoff>(header.e_phoff + header.e_phentsize * i));
    whole = file.read(reinterpret_cast<char*>(&part), sizeof part) && part.p_offset + part.p_filesz <= size;
  }
  if (!whole) return "'" + name + "' was cut off (" + std::to_string(size) + " bytes arrived); upload it again";
  return "";
}

}  // namespace board

#endif  // SOFTNEURO_TVM_BOARD_MODULE_FILE_H_
