# For a build beside the wheels of ROS from PyPI: their CMake files name folders of the machine that made them, and CMake
# refuses imported targets that name what is not there. What is needed of them (Python's and NumPy's headers) the build
# finds itself. Given as CMAKE_PROJECT_<package>_INCLUDE (interfaces/build.py).
function(drop_paths_that_are_not_here)
  get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS imported)
    foreach(property INTERFACE_INCLUDE_DIRECTORIES INTERFACE_LINK_LIBRARIES)
      get_target_property(named ${target} ${property})
      if(named)
        set(kept)
        foreach(entry IN LISTS named)
          if(NOT IS_ABSOLUTE "${entry}" OR EXISTS "${entry}")
            list(APPEND kept "${entry}")
          endif()
        endforeach()
        set_target_properties(${target} PROPERTIES ${property} "${kept}")
      endif()
    endforeach()
  endforeach()
endfunction()

cmake_language(DEFER CALL drop_paths_that_are_not_here)
