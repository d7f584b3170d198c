# Reads the sources and fails where a field or a method of the protocol is spelled outside core/rpc: both programs, and the scripted engine of
# the tests, read and write messages by the types there. Run: cmake -DROOT=... -P protocol_names.cmake
cmake_minimum_required(VERSION 3.25)

# The names, from the lists of fields.
set(names "")
set(methods "")
file(GLOB sources ${ROOT}/core/rpc/*.cpp)
foreach(source IN LISTS sources)
    file(STRINGS ${source} lines REGEX "f\\.(required|optional|always|nullable|maybe|document|paths|set)\\(\"")
    foreach(line IN LISTS lines)
        string(REGEX MATCH "f\\.[a-z]+\\(\"([a-z0-9_]+)\"" matched "${line}")
        list(APPEND names ${CMAKE_MATCH_1})
    endforeach()
endforeach()
file(GLOB headers ${ROOT}/core/rpc/protocol*.h)
foreach(header IN LISTS headers)
    file(STRINGS ${header} lines REGEX "kMethod = \"")
    foreach(line IN LISTS lines)
        string(REGEX MATCH "kMethod = \"([^\"]+)\"" matched "${line}")
        list(APPEND methods "${CMAKE_MATCH_1}")
    endforeach()
endforeach()
list(REMOVE_DUPLICATES names)
list(LENGTH names count)
list(LENGTH methods methodCount)
if(count LESS 100 OR methodCount LESS 10)
    message(FATAL_ERROR "protocol_names: only ${count} names and ${methodCount} methods were found in core/rpc")
endif()

# Files that have words of their own with the same names: what the window keeps in a session's view state, colours, units, banners.
set(ownWords
    widgets/look/theme.cpp
    widgets/planning/pipeline_recipe.cpp
    widgets/planning/size_target.cpp
    widgets/shell/engine/estimate_controller.cpp
    widgets/shell/plan/workbench.cpp
    widgets/shell/plan/workbench_texts.cpp
    widgets/shell/window/main_window.cpp)

file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/widgets/*.cpp ${ROOT}/widgets/*.h ${ROOT}/app/espalier/*.cpp ${ROOT}/app/engine/requests*
    ${ROOT}/app/engine/server* ${ROOT}/tests/widgets/fake_*)
set(violations "")
foreach(file IN LISTS files)
    file(READ ${ROOT}/${file} content)
    # Brackets and semicolons are CMake's own.
    string(REPLACE ";" ":" content "${content}")
    string(REPLACE "[" "<" content "${content}")
    string(REPLACE "]" ">" content "${content}")
    # The tag of a job: {"plan", Lane::Full}.
    string(REGEX REPLACE "\\{\"[a-z-]+\", (Lane::|\\{\\})" "" content "${content}")
    # request("evaluate", ..), method == "evaluate", in the engines {"evaluate", handler}
    set(before "request\\(|method == ")
    if(NOT file MATCHES "^widgets/")
        string(APPEND before "|\\{")
    endif()
    foreach(method IN LISTS methods)
        string(REPLACE "$" "\\$" pattern "${method}")
        if(content MATCHES "(${before})\"${pattern}\"")
            list(APPEND violations "${file}: the method \"${method}\"")
        endif()
    endforeach()
    if(file IN_LIST ownWords OR file MATCHES "_workspace\\.cpp$")
        # Of these the requests and answers alone: `.result` of a reply and its fields.
        if(content MATCHES "result(\\.value\\(|<)\"")
            list(APPEND violations "${file}: fields of an answer")
        endif()
        continue()
    endif()
    # value("name", .., find("name"), at("name"), contains("name"), x["name"], {"name", ..}
    string(REGEX MATCHALL "(value\\(|find\\(|at\\(|contains\\(|erase\\(|<|\\{)\"[a-z0-9_]+\"(>|\\)|,)" found "${content}")
    foreach(place IN LISTS found)
        string(REGEX MATCH "\"([a-z0-9_]+)\"" matched "${place}")
        if(CMAKE_MATCH_1 IN_LIST names)
            list(APPEND violations "${file}: ${place}")
        endif()
    endforeach()
endforeach()
list(REMOVE_DUPLICATES violations)
if(violations)
    list(JOIN violations "\n  " text)
    message(FATAL_ERROR "names of the protocol outside core/rpc:\n  ${text}")
endif()
message(STATUS "${count} fields and ${methodCount} methods of the protocol are spelled in core/rpc alone")
