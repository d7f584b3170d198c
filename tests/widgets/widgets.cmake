find_package(Qt6 6.4 REQUIRED COMPONENTS Test)

# espalier_qt_test(<name> SOURCES ... LIBS ...): Qt Test on the offscreen platform.
function(espalier_qt_test name)
    cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LIBS" ${ARGN})
    if(NOT ARG_TIMEOUT)
        set(ARG_TIMEOUT 120)
    endif()
    add_executable(${name} ${ARG_SOURCES})
    set_target_properties(${name} PROPERTIES AUTOMOC ON)
    target_link_libraries(${name} PRIVATE ${ARG_LIBS} Qt6::Test espalier::options)
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
    target_compile_definitions(${name} PRIVATE QT_NO_CAST_FROM_ASCII QT_USE_QSTRINGBUILDER
        ESPALIER_RESOURCES="${PROJECT_SOURCE_DIR}/resources")
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "fast;window" ENVIRONMENT "QT_QPA_PLATFORM=offscreen")
endfunction()

espalier_qt_test(test_look SOURCES widgets/test_look.cpp LIBS espalier::widgets Qt6::Svg QCustomPlotQt6::QCustomPlotQt6)
espalier_qt_test(test_size_target SOURCES widgets/test_size_target.cpp LIBS espalier::widgets)
espalier_qt_test(test_text_size SOURCES widgets/test_text_size.cpp LIBS espalier::widgets)
target_include_directories(test_text_size PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/widgets)

# Shows every view with invented data; writes screenshots with --grab FOLDER. Not installed, not a test.
add_executable(gallery EXCLUDE_FROM_ALL widgets/gallery.cpp)
target_link_libraries(gallery PRIVATE espalier::widgets espalier::options)
target_include_directories(gallery PRIVATE ${PROJECT_SOURCE_DIR}/tests)
target_compile_definitions(gallery PRIVATE QT_NO_CAST_FROM_ASCII QT_USE_QSTRINGBUILDER)
