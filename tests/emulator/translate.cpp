// Translation of device texts: as little as the macros of cuda_names.h cannot do.
#include "tests/emulator/translate.h"

#include <cctype>
#include <regex>
#include <vector>

namespace flame::emulated {
namespace {

bool of_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; }
size_t skip_blanks(std::string_view s, size_t i) {
  while (i < s.size() && std::isspace(static_cast<unsigned char>(s[i]))) ++i;
  return i;
}
// Behind a string or character literal that begins at i.
size_t skip_literal(std::string_view s, size_t i) {
  const char quote = s[i++];
  while (i < s.size() && s[i] != quote) i += s[i] == '\\' ? 2 : 1;
  return i + 1;
}
bool literal_at(std::string_view s, size_t i) {
  return s[i] == '"' || (s[i] == '\'' && (i == 0 || !of_name(s[i - 1])));  // not a digit separator
}
// Behind the bracket that closes the one at i.
size_t skip_brackets(std::string_view s, size_t i) {
  int depth = 0;
  while (i < s.size()) {
    if (literal_at(s, i)) {
      i = skip_literal(s, i);
      continue;
    }
    if (s[i] == '(' || s[i] == '[' || s[i] == '{') ++depth;
    if (s[i] == ')' || s[i] == ']' || s[i] == '}') --depth;
    ++i;
    if (depth == 0) break;
  }
  return i;
}
std::vector<std::string_view> split(std::string_view s, char by) {
  std::vector<std::string_view> out;
  size_t from = 0, i = 0;
  while (i < s.size()) {
    if (literal_at(s, i)) i = skip_literal(s, i);
    else if (s[i] == '(' || s[i] == '[' || s[i] == '{') i = skip_brackets(s, i);
    else {
      if (s[i] == by) {
        out.push_back(s.substr(from, i - from));
        from = i + 1;
      }
      ++i;
    }
  }
  out.push_back(s.substr(from));
  return out;
}
// Where a word begins at or behind i, outside of literals; npos if nowhere.
size_t find_word(std::string_view s, std::string_view word, size_t i) {
  while (i < s.size()) {
    if (literal_at(s, i)) {
      i = skip_literal(s, i);
      continue;
    }
    if (s.substr(i, word.size()) == word && (i == 0 || !of_name(s[i - 1])) &&
        (i + word.size() == s.size() || !of_name(s[i + word.size()])))
      return i;
    ++i;
  }
  return std::string_view::npos;
}

// asm [volatile]("template" : "=r"(out) : "r"(in) : "memory") -> flame_emulated::ptx<"template">(out, in)
std::string without_ptx(std::string_view s) {
  std::string out;
  size_t from = 0;
  for (size_t at; (at = find_word(s, "asm", from)) != std::string_view::npos;) {
    out += s.substr(from, at - from);
    size_t open = skip_blanks(s, at + 3);
    if (s.substr(open, 8) == "volatile") open = skip_blanks(s, open + 8);
    const size_t end = skip_brackets(s, open);
    const std::vector<std::string_view> parts = split(s.substr(open + 1, end - open - 2), ':');
    out += "flame_emulated::ptx<" + std::string(parts[0]) + ">(";
    const char* between = "";
    for (size_t p = 1; p < parts.size() && p < 3; ++p)
      for (const std::string_view operand : split(parts[p], ',')) {
        const size_t bracket = operand.find('(');
        if (bracket == std::string_view::npos) continue;  // none
        out += between + std::string(operand.substr(bracket));
        between = ", ";
      }
    out += ')';
    from = end;
  }
  return out + std::string(s.substr(from));
}

// Of every kernel that is no template: its name, and what __launch_bounds__ says first.
std::string entries(std::string_view s) {
  std::string out;
  for (size_t at = find_word(s, "__global__", 0); at != std::string_view::npos;
       at = find_word(s, "__global__", at + 1)) {
    size_t before = at;
    while (before > 0 && std::isspace(static_cast<unsigned char>(s[before - 1]))) --before;
    if (before > 0 && s[before - 1] == '>') continue;
    std::string bounds = "0", word;
    for (size_t i = at + 10; i < s.size();) {
      i = skip_blanks(s, i);
      size_t end = i;
      while (end < s.size() && of_name(s[end])) ++end;
      word = s.substr(i, end - i);
      i = skip_blanks(s, end);
      if (word.empty()) break;
      if (s[i] != '(') continue;
      const size_t close = skip_brackets(s, i);
      if (word != "__launch_bounds__") break;
      bounds = split(s.substr(i + 1, close - i - 2), ',')[0];
      i = close;
    }
    if (!word.empty()) out += "FLAME_ENTRY(" + word + ", (" + bounds + "))\n";
  }
  return out;
}

}  // namespace

std::string translate(std::string_view text) {
  static const std::regex dynamic(
      R"(extern\s+__shared__\s+(?:__align__\(\d+\)\s+)?([\w\s:]+?)\s*\b(\w+)\s*\[\s*\]\s*;)");
  const std::string body = std::regex_replace(without_ptx(text), dynamic,
                                              "static $1* const $2 = reinterpret_cast<$1*>(flame_dynamic_shared);");
  return "#include \"tests/emulator/cuda_names.h\"\n" + body + "\nnamespace flame {}\nusing namespace flame;\n" +
         entries(text);
}

}  // namespace flame::emulated
