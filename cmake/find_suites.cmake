# Writes one ctest entry per GoogleTest suite of TEST_BINARY. Suites rather than cases: thousands of sample cases would
# spend longer starting processes than testing. Instances of one parametrised suite share an entry.
execute_process(COMMAND "${TEST_BINARY}" --gtest_list_tests OUTPUT_VARIABLE listing COMMAND_ERROR_IS_FATAL ANY)
string(REGEX REPLACE "\n" ";" lines "${listing}")
set(suites "")
foreach(line IN LISTS lines)
  # "Suite.", "Instance/Suite." or "Suite/0.  # TypeParam = float"
  if(line MATCHES "^([A-Za-z0-9_]+/)?([A-Za-z_][A-Za-z0-9_]*)(/[0-9]+)?\\.")
    list(APPEND suites "${CMAKE_MATCH_2}")
  endif()
endforeach()
list(REMOVE_DUPLICATES suites)

set(text "")
foreach(suite IN LISTS suites)
  string(APPEND text
    "add_test([[${suite}]] [[${TEST_BINARY}]] --gtest_brief=1 --gtest_color=no\n"
    "  [[--gtest_filter=${suite}.*:${suite}/*:*/${suite}.*:*/${suite}/*]] [[--gtest_output=xml:${RESULTS}/${suite}.xml]])\n"
    "set_tests_properties([[${suite}]] PROPERTIES TIMEOUT 1500)\n")
endforeach()
file(WRITE "${OUTPUT}" "${text}")
